/* The subcommands. Each takes what follows `triad` (argv[0] is its own name), speaks to standard error (results to
 * standard output), and returns the process's exit status (err_exit_status). */
#ifndef TRIAD_CLI_CLI_H
#define TRIAD_CLI_CLI_H

int cli_data(int argc, char **argv);
int cli_train(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_embed(int argc, char **argv);
int cli_search(int argc, char **argv);
int cli_explain(int argc, char **argv);
int cli_bench(int argc, char **argv);
int cli_tokenizer(int argc, char **argv);

#endif
