"""Draws a compiled network from its description: a tree for the terminal, a figure for the paper.

A description is plain data (what `json.load` gives), so that neither picture needs torch or the
compiler.
`tree` says everything and prefers one row to twelve equal ones. `svg` says what a reader of a paper wants first: the
order of computation, the resolutions, the skips. It knows no architectures: whether a network is a U is read off its
edges (something jumps over nodes and joins a later one) and its strides (they grow and shrink again).

Boxes of a figure never overlap by construction: every box has a row (its resolution, or its line of a long chain) and
in a row boxes only ever go right. Lines that are not plain arrows or elbows run in lanes between the rows and cross
rows where these are free, so no line runs through a box.
"""

from composer.drawing.figure import svg as svg
from composer.drawing.tree import tree as tree
from composer.drawing.words import expanded as expanded
from composer.drawing.words import human as human
