#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# A file made byte by byte, as the format says it (little-endian), gives the same bytes and hash on every kind of machine: numbers of
# 4 and 2 bytes, integers of 4 and 8.
# shellcheck disable=SC1091,SC2016,SC2154  # the kit lies beside; sh -c expands; the makefile and the kit set variables
. "$srcdir/t/shell.sh"

[ -n "$RONDO" ] || skip_all "the program is not built"
cd "$scratch" || exit 1

file() { # name, header without spaces, octal bytes of the data
    # shellcheck disable=SC2059  # the data are escapes
    { printf "\\$(printf %03o $((${#2} % 256)))\\$(printf %03o $((${#2} / 256)))\\000\\000\\000\\000\\000\\000%s" "$2"; printf "$3"; } >"$1"
}
data() { # file, bytes: the last of them, in hexadecimal
    tail -c "$2" "$1" | od -An -v -tx1 | tr -d ' \n'
}
hash_of() { sed -n 's/.*"hash": *"\([0-9a-f]*\)".*/\1/p' "$1"; }

one='\000\000\200\077' two='\000\000\000\100' half='\000\000\000\277'     # 1, 2, -0.5
file f32 '{"q":{"dtype":"F32","shape":[1,2,1,2],"data_offsets":[0,16]},"k":{"dtype":"F32","shape":[1,2,1,2],"data_offsets":[16,32]},"v":{"dtype":"F32","shape":[1,2,1,2],"data_offsets":[32,48]}}' \
    "$one$two$half$one$half$two$one$one$one$two$half$one"
ok "F32: attend runs" sh -c '"$RONDO" attend f32 -o out --causal --json >report'
echo "$(data out 24) $(hash_of report)" >got
echo "0000803f0000004028a5293f0e37e33f55641e40e940ec3f 155fb66cee132176" >want
compare "F32: bytes and hash" want got

one='\200\077' two='\000\100' half='\000\277'
file bf16 '{"q":{"dtype":"BF16","shape":[3,1,2],"data_offsets":[0,12]},"k":{"dtype":"BF16","shape":[3,1,2],"data_offsets":[12,24]},"v":{"dtype":"BF16","shape":[3,1,2],"data_offsets":[24,36]},"cu_seqlens_q":{"dtype":"I32","shape":[3],"data_offsets":[36,48]},"cu_seqlens_k":{"dtype":"I64","shape":[3],"data_offsets":[48,72]}}' \
    "$one$two$half$one$half$two$one$one$one$two$half$one$two$half$one$two$half$one\\000\\000\\000\\000\\002\\000\\000\\000\\003\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\002\\000\\000\\000\\000\\000\\000\\000\\003\\000\\000\\000\\000\\000\\000\\000"
ok "BF16, packed: attend runs" sh -c '"$RONDO" attend bf16 -o out --causal --json >report'
echo "$(data out 24) $(hash_of report)" >got
echo "b7c307403a12bb3f92a5cb3f004000bfaa3f963f00bf803f d1fcbd2ae3ef79d8" >want
compare "BF16, packed: bytes and hash" want got
finish
