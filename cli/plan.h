/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The verbs of rondo plan that have a file of their own. argv[1] is the verb; each returns an exit code.
 */
#ifndef RONDO_CLI_PLAN_H
#define RONDO_CLI_PLAN_H

#include "cli/cli.h"

int plan_cost(int argc, char **argv);

#endif
