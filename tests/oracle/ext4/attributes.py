"""Prints a line for each node below DIR: the path and its attributes, all in hexadecimal; ACLs and labels among them."""

import os
import sys

root = os.fsencode(sys.argv[1])


def show(path):
    names = sorted(os.listxattr(path, follow_symlinks=False))
    pairs = [os.fsencode(n).hex() + "=" + os.getxattr(path, n, follow_symlinks=False).hex() for n in names]
    if pairs:
        print(os.path.relpath(path, root).hex(), *pairs)


show(root)
for base, dirs, files in os.walk(root):
    for name in dirs + files:
        show(os.path.join(base, name))
