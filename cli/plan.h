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

/* The shapes of a model: a folder, or a name (plan_model.c). An exit code. */
int plan_model(const char *name, rondo_cost_case *c);

/* Hardware: a name, or a file (plan_hardware.c). An exit code. What is meant where --hardware is not given: RONDO_HARDWARE, or a name. */
int plan_hardware(const char *name, rondo_hardware *h);
const char *plan_hardware_name(const char *given);

#endif
