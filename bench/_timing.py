"""One way to time things against each other: in one process, one run, interleaved.

    from _timing import compare
    compare({"ours": f, "theirs": g})

Every round times each function once, in an order that turns from round to round, so that a busy machine or a warming
clock hits all of them alike. The ratio is taken inside each round, then its median: it is steadier than either time.
"""
from statistics import median
from time import perf_counter


def timed(fn, calls):
    "Seconds a call, averaged over `calls` calls in a row."
    start = perf_counter()
    for _ in range(calls): fn()
    return (perf_counter() - start) / calls


def calls_needed(fn, at_least_s):
    "How many calls in a row take at least `at_least_s`; the first, warming call does not count."
    fn()
    once = max(timed(fn, 1), 1e-9)
    return max(1, round(at_least_s / once))


def spelled(seconds):
    for unit, factor in (("s", 1), ("ms", 1e3)):
        if seconds * factor >= 1: return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def compare(fns, rounds=7, at_least_s=.02, title=""):
    """Time functions against the first of them; print median, min–max and ratio, and return them.

    Parameters
    ----------
    fns : dict, name -> function of no argument, at least two; the first is the one the others are compared with
    rounds : int >= 1
    at_least_s : float, a timing repeats short functions until it has taken this long
    title : str, printed above

    Returns
    -------
    dict, name -> dict of seconds (list of `rounds`), median, ratios (list, this function's time / the first's) and ratio
    """
    if len(fns) < 2: raise ValueError(f"{len(fns)} function: comparing takes at least 2")
    if rounds < 1: raise ValueError(f"rounds={rounds}: at least 1")
    names = list(fns)
    calls = {name: calls_needed(fn, at_least_s) for name, fn in fns.items()}
    seconds = {name: [] for name in names}
    for r in range(rounds):
        for name in names[r % len(names):] + names[:r % len(names)]: seconds[name].append(timed(fns[name], calls[name]))
    if title: print(title)
    found = {}
    for name in names:
        s, ratios = seconds[name], [a / b for a, b in zip(seconds[name], seconds[names[0]])]
        found[name] = dict(seconds=s, median=median(s), ratios=ratios, ratio=median(ratios))
        spread = "" if name == names[0] else f"   {median(ratios):.3g} times as long ({min(ratios):.3g}–{max(ratios):.3g})"
        print(f"  {name:<{max(map(len, names))}}  {spelled(median(s)):>8} ({spelled(min(s))}–{spelled(max(s))}){spread}")
    return found
