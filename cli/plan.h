/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The verbs of rondo plan that have a file of their own. argv[1] is the verb; each returns an exit code.
 */
#ifndef RONDO_CLI_PLAN_H
#define RONDO_CLI_PLAN_H

#include "cli/cli.h"

int plan_cost(int argc, char **argv);
int plan_choose(int argc, char **argv);
int plan_replay(int argc, char **argv);
int plan_run(int argc, char **argv);

/* --quiet and --progress, as all commands have them. 0 or an exit code (plan.c). */
int plan_quiet(void);

/* The shapes of a model: a folder, or a name (plan_model.c). An exit code. */
int plan_model(const char *name, rondo_cost_case *c);

/* Hardware: a name, or a file (plan_hardware.c). An exit code. What is meant where --hardware is not given: RONDO_HARDWARE, or a name. */
int plan_hardware(const char *name, rondo_hardware *h);
const char *plan_hardware_name(const char *given);

/* What a schedule would take on hardware (NULL: what is meant without): into the report, and as a timeline where one is asked for. An exit
 * code (plan_simulate.c). */
int plan_simulate(rondo_schedule *s, const char *hardware, const char *transport, int ranks, json_t *report);

/* Calls work(arg, i) once for each i from `first` on, `count` of them, some at the same time (plan_beside.c). told: of so many in all the meter
 * is told, of which those behind these are done; 0: of none. */
void plan_beside(int64_t first, int64_t count, int64_t told, void (*work)(void *arg, int64_t index), void *arg);

/* A prefill of Llama 3 405B on hosts of eight, as the paper runs it: milliseconds (plan_replay.c); and worlds that it did not have
 * (plan_beyond.c). Exit codes. */
int plan_paper_pass(const rondo_hardware *h, int32_t algorithm, int hosts, int64_t past, int64_t tokens, double *ms);
int plan_beyond(const rondo_hardware *h, json_t *list, json_t *summary);

#endif
