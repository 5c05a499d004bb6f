/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The pictures of 7057-plan-search.c, as they were drawn and looked at.
 */
#ifndef RONDO_T_PLAN_SEARCH_H
#define RONDO_T_PLAN_SEARCH_H

static const char picture_ttft[] =
    "Time to first token of llama-3.1-8b on even.json\n"
    "\n"
    "            time to first token, seconds\n"
    "     61.57 |                                                               c\n"
    "           |\n"
    "           |\n"
    "           |\n"
    "     31.76 |                                c                              b\n"
    "           |\n"
    "           |\n"
    "           |\n"
    "     16.38 |                                                               a\n"
    "           |c                               b\n"
    "           |\n"
    "           |\n"
    "     8.448 |\n"
    "           |b                               a\n"
    "           |\n"
    "           |\n"
    "     4.357 |\n"
    "     3.692 |a\n"
    "           +----------------------------------------------------------------\n"
    "            1K                             2K                             4K   new tokens\n"
    "\n"
    "            a 4 ranks\n"
    "            b 2 ranks\n"
    "            c 1 rank\n";

static const char picture_memory[] =
    "What a rank holds of llama-3.1-8b on h100\n"
    "\n"
    "1 x 8 |#############=                                                 | 18.08\n"
    "2 x 4 |######=+                                                       | 10.32\n"
    "4 x 2 |###=+                                                          | 6.627\n"
    "8 x 1 |##++                                                           | 5.263\n"
    "       GB of a rank; tp x cp, each in its best way that fits, or else in that of least memory\n"
    "\n"
    "       # weights\n"
    "       = KV cache\n"
    "       + activations\n"
    "       . workspace\n"
    "       | memory of a rank\n";

static const char picture_rates[] =
    "Attention by pass-KV and pass-Q: 125K tokens, 4 ranks, even.json\n"
    "\n"
    "            time by pass-KV / time by pass-Q\n"
    "     1.049 |a                                  :\n"
    "           |                                   :\n"
    "           |                                   :\n"
    "           |-----------------------------------:----------------------------\n"
    "    0.9804 |                                   :\n"
    "           |             a                     :\n"
    "           |                                   :\n"
    "           |      a         a                  :\n"
    "    0.9115 |                      a            :\n"
    "           |                           a       :                           a\n"
    "           |                                   :     a\n"
    "           |                                a  : a\n"
    "    0.8425 |                                   :\n"
    "           |                                   :           a\n"
    "           |                                   :                  a\n"
    "           |                                   :\n"
    "    0.7736 |                                   :\n"
    "    0.7564 |                                   :                      a\n"
    "           +----------------------------------------------------------------\n"
    "            1           2.5       5        10       20    30     50       100   miss rate: new tokens of all, %\n"
    "\n"
    "            a simulated\n"
    "            - equal: below, pass-KV\n"
    "            : pass-KV from 12.5 % on (alg1)\n";

#endif
