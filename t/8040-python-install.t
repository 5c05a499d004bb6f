#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# pip installs the package from the source tree, without compiling anything; the installed one finds the library by RONDO_LIBRARY and by the loader,
# and says how when it does not.
. "$srcdir/t/shell.sh"
. "$srcdir/t/python.sh"
python_for numpy pip setuptools
"$python" -c 'import importlib.util, setuptools, sys
sys.exit(not (importlib.util.find_spec("wheel") or tuple(map(int, setuptools.__version__.split(".")[:2])) >= (70, 1)))' ||
    skip_all "$python has no wheel, which its setuptools needs"
cp -R "$srcdir/python" "$scratch/python" && chmod -R u+w "$scratch/python"   # pip leaves things beside what it builds
ok "pip installs it" "$python" -m pip --disable-pip-version-check install --no-index --no-build-isolation --no-deps --target "$scratch/site" "$scratch/python"
PYTHONPATH=$scratch/site
cat >"$scratch/use.py" <<'END'
import numpy as np, rondo
x = np.ones((1, 9, 2, 8), np.float32)
print(rondo.__file__.rsplit("/", 2)[0], rondo.__version__, rondo.hash(rondo.attention(x, x, x, ranks=2)))
END
cd "$scratch" || exit 1
"$python" use.py >by-name 2>&1
ok "the installed package computes" grep -q "^$scratch/site " by-name
version=$(head -n 1 "$srcdir/VERSION")
ok "its version is the library's" grep -q "^version = \"$version\"\$" "$srcdir/python/pyproject.toml"
env -u RONDO_LIBRARY LD_LIBRARY_PATH="$builddir/.libs" "$python" use.py >by-loader 2>&1
compare "the loader finds the library" by-name by-loader
RONDO_LIBRARY=$scratch/nowhere.so "$python" use.py >missing 2>&1
ok "a library that is not there: the sentence says what to do" grep -q '^ImportError: librondo cannot be opened .*nowhere.so.*set RONDO_LIBRARY' missing
mkdir -p tree/python tree/include tree/build/.libs
cp -R site/rondo tree/python/rondo
: >tree/include/rondo.h
ln -s "$builddir/.libs/librondo.so.0" tree/build/.libs/librondo.so.0
env -u RONDO_LIBRARY -u RONDO_MODULE_PATH PYTHONPATH="$scratch/tree/python" "$python" -c 'import rondo; print(rondo.library)' >from-tree 2>&1
echo "$scratch/tree/build/.libs/librondo.so.0" >want
compare "in the source tree its build's library is found" want from-tree
ln -s "$builddir/.libs/librondo.so.0" site/rondo/librondo.so
env -u RONDO_LIBRARY -u RONDO_MODULE_PATH "$python" -c 'import rondo; print(rondo.library)' >beside 2>&1
echo "$scratch/site/rondo/librondo.so" >want
compare "a library beside the package is found" want beside
finish
