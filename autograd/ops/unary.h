/* The numbers that an elementwise op of one input may carry (the slope, the bounds, the factor ...). */
#ifndef TRIAD_AUTOGRAD_OPS_UNARY_H
#define TRIAD_AUTOGRAD_OPS_UNARY_H

struct ad_unary_attr {
    double a, b;
};

#endif
