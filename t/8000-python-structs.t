#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# The Python package writes down rondo.h and rondo_lm.h once more: structures, constants, functions. A C compiler and the headers themselves say
# whether it is right.
. "$srcdir/t/shell.sh"
python=${PYTHON:-python3}
command -v "$python" >/dev/null || skip_all "$python is not installed"
case $("$python" -c 'import struct; print(struct.calcsize("P"))'),$($CC -dM -E -x c /dev/null 2>/dev/null | sed -n 's/.*__SIZEOF_POINTER__ //p') in
    8,8 | 4,4) ;;
    *) skip_all "the compiler is for another kind of machine than $python" ;;
esac
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
cat >"$scratch/tell.py" <<'END'
import ctypes, importlib, re, sys, types
package = sys.modules["rondo"] = types.ModuleType("rondo")   # without what is in its __init__.py, which opens the library
package.__path__ = [sys.argv[1]]
s, models = (importlib.import_module("rondo." + name) for name in ("_structs", "_lm_structs"))
STRUCTURES, CONSTANTS, FUNCTIONS = s.STRUCTURES + models.STRUCTURES, {**s.CONSTANTS, **models.CONSTANTS}, {**s.FUNCTIONS, **models.FUNCTIONS}
what = sys.argv[2]
if what == "c":   # a program that says what the compiler makes of the same names
    print("#include <stdio.h>\n#include <stddef.h>\n" + "".join('#include "%s"\n' % h for h in sys.argv[3:]) + "int main(void)\n{")
    for t in STRUCTURES:
        n = t.__name__
        print('    printf("%s %%zu\\n", sizeof(%s));' % (n, n))
        for f in t._fields_:
            print('    printf("%s.%s %%zu %%zu\\n", offsetof(%s, %s), sizeof(((%s *)0)->%s));' % (n, f[0], n, f[0], n, f[0]))
    for n in CONSTANTS:
        print('    printf("%s %%d\\n", (int)%s);' % (n, n))
    print("    return 0;\n}")
elif what == "python":
    for t in STRUCTURES:
        print(t.__name__, ctypes.sizeof(t))
        for f in t._fields_:
            print("%s.%s %d %d" % (t.__name__, f[0], getattr(t, f[0]).offset, getattr(t, f[0]).size))
    for n, value in CONSTANTS.items():
        print(n, value)
else:   # declarations of the headers, against the table of functions
    kinds = {None: "void", s.P: "pointer", s.S: "text", s.I: "int", s.L: "int64_t", s.Z: "size_t", s.D: "double", s.U64: "uint64_t", s.F: "float",
             models.U32: "uint32_t",
             s.Body: "rondo_body *"}
    text = re.sub(r"/\*.*?\*/", " ", "".join(open(h).read() for h in sys.argv[3:]), flags=re.S)
    found = {}
    for result, name, arguments in re.findall(r"RONDO_API ([\w *]+?)\b(rondo_\w+)\(([^()]*(?:\([^()]*\)[^()]*)*)\)", text):
        found[name] = (result, re.split(r",(?![^()]*\))", arguments))
    def kind(c, name_is_in):
        c = re.sub(r"\s+", " ", c).strip()
        if "rondo_body *" in c:
            return "rondo_body *"
        if c.startswith("const char *") and "**" not in c and (not name_is_in or not c.endswith("*")):
            return "text"
        if "*" in c or "[" in c:
            return "pointer"
        c = c.rsplit(" ", 1)[0] if name_is_in else c
        return {"size_t": kinds[s.Z], "int32_t": kinds[s.I32]}.get(c, c)   # for ctypes they are among the others
    for name, (result, arguments) in FUNCTIONS.items():
        have = " ".join([kinds[result]] + [kinds[a] for a in arguments])
        if name not in found:
            print(name + ": the headers do not declare it")
            continue
        r, a = found[name]
        want = " ".join([kind(r, False)] + [kind(x, True) for x in a if x.strip() != "void"])
        if want != have:
            print("%s: %s, and the headers have %s" % (name, have, want))
END
structs=$srcdir/python/rondo
headers=$(cd "$srcdir/include" && ls rondo.h rondo_plan.h rondo_layers.h rondo_delta.h rondo_lm.h 2>/dev/null)
# shellcheck disable=SC2086  # words
"$python" "$scratch/tell.py" "$structs" c $headers >"$scratch/tell.c"
# shellcheck disable=SC2086  # flags are words
ok "every structure and field of the package is in the headers" $CC $CFLAGS -I"$srcdir/include" "$scratch/tell.c" -o "$scratch/tell"
"$scratch/tell" >"$scratch/want"
"$python" "$scratch/tell.py" "$structs" python >"$scratch/got"
compare "sizes, places and sizes of fields, and constants are the compiler's" "$scratch/want" "$scratch/got"
# shellcheck disable=SC2046,SC2086  # words
"$python" "$scratch/tell.py" "$structs" functions $(for h in $headers; do echo "$srcdir/include/$h"; done) >"$scratch/found" 2>&1
empty "functions return and take what the headers say" "$scratch/found"
finish
