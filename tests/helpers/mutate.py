"""A function with one small change in its source: other operators, constants and comparisons, a term dropped."""
import ast
import copy
import inspect
import sys
import textwrap

SWAPPED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
           ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
           ast.BitXor: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.Mod: ast.FloorDiv,
           ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.MatMult: ast.Mult}


def changes_of(node):
    "Functions that change a node in place, each in another way; a returned node takes its place."
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPPED:
        yield lambda n: setattr(n, "op", SWAPPED[type(n.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)): yield lambda n: n.left  # drop the second term
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED: yield lambda n: n.ops.__setitem__(0, SWAPPED[type(n.ops[0])]())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float): yield lambda n: setattr(n, "value", n.value + 1)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)): yield lambda n: n.operand
    if isinstance(node, ast.IfExp): yield lambda n: n.orelse


class Change(ast.NodeTransformer):
    "Makes the `which`-th change of a tree; `count` says how many were seen."
    def __init__(self, which): self.which, self.count = which, 0

    def visit(self, node):
        for change in changes_of(node):
            self.count += 1
            if self.count - 1 == self.which: return change(node) or node
        return self.generic_visit(node)


def tree_of(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    tree.body[0].decorator_list = []
    return tree


def mutants(function):
    "(what the changed line reads, changed function), one for each change that the source allows."
    tree = tree_of(function)
    counting = Change(-1)
    counting.visit(copy.deepcopy(tree.body[0]))
    for which in range(counting.count):
        changed = copy.deepcopy(tree)
        Change(which).visit(changed.body[0])
        space = dict(vars(sys.modules[function.__module__]))
        exec(compile(ast.fix_missing_locations(changed), f"<mutant {which} of {function.__name__}>", "exec"), space)
        yield ast.unparse(changed.body[0]), space[function.__name__]
