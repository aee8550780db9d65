/* The whole library in one include: `pkg-config --cflags --libs triad`. Each room's headers can also be taken alone. */
#ifndef TRIAD_H
#define TRIAD_H

#include "base/conf.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/threads.h"
#include "autograd/graph.h"
#include "autograd/op.h"
#include "autograd/plan.h"
#include "autograd/store.h"
#include "layers/nn.h"
#include "models/head.h"
#include "models/model.h"
#include "optim/layers.h"
#include "optim/noise.h"
#include "optim/opt.h"

#endif
