#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Prints "alias page" for each further name in the NAME section of the pages of section 3 given: those are installed as pages
# that refer to the page. Called by make install and by t/0120-manual.t.
for page in "$@"; do
    base=${page##*/}
    awk -v page="$base" '
        /^\.Sh NAME/ { inside = 1; next }
        /^\.Sh /     { exit }
        inside && /^\.Nm / { alias = $2 ".3"; if (alias != page) print alias, page }' "$page"
done
