"""Results as a table for the terminal, and the README's table in both languages."""
import json
import re
from pathlib import Path
from statistics import median

from .contests import CONTESTS

REPO = Path(__file__).parents[2]
KEPT = REPO / "bench/results.json"                          # what the README's table is made of
READMES = {"README.md": "en", "README.zh.md": "zh"}
BEGIN, END = "<!-- bench: written by `make bench ARGS=--keep`, from bench/results.json -->", "<!-- bench: end -->"


def ratios(theirs, ours):
    "Times as long, round by round: a busy moment hits both."
    return [a / b for a, b in zip(theirs["seconds"], ours["seconds"])]


def spread(values, form=".3g"):
    "median (min–max); a single value as it is"
    if len(values) == 1: return f"{values[0]:{form}}"
    return f"{median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def row_of(entry, ours):
    "The cells of a contestant in the terminal's table; `ours` is what it is compared with, or None."
    if not entry["seconds"]: return [entry["title"], "failed" if "failed" in entry else "–", *["–"] * 5]
    rows = entry.get("rows")
    speed = f"{rows / median(entry['seconds']):,.0f}" if rows else "–"
    longer = "1" if entry is ours else spread(ratios(entry, ours)) if ours and ours["seconds"] else "–"
    check = next((f"{entry[name]:.3f} {name}" for name in ("accuracy", "agreement") if name in entry), "–")
    memory = f"{entry['peak_mb']:,}" if "peak_mb" in entry else "–"
    return [entry["title"], spread(entry["seconds"]), longer, speed, memory, f"{median(entry['others']):.2g}", check]


HEAD = ("", "seconds: median (least–most)", "times as long as the first", "rows a second", "peak MB", "others' cores",
        "came out")


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]


def table(results):
    "Every contestant of every contest, as text."
    rows = [HEAD, ["-"] * len(HEAD)]
    for contest in results["contests"]:
        first = contest["contestants"][0]
        rows.append([f"{contest['title']} (rounds: {len(first['seconds'])})", *[""] * (len(HEAD) - 1)])
        rows += [row_of(entry, first if contest["compared"] else None) for entry in contest["contestants"]]
    lines = aligned(rows)
    note = ["a quick look with few rows: no measurement"] if results["quick"] else []
    return "\n".join([*note, lines[0], re.sub(r"[^|]", "-", lines[1]), *lines[2:]])


# --- the README -----------------------------------------------------------------------------------------------------

TITLES = {"en": {}, "zh": {}}
for _c in CONTESTS:
    TITLES["zh"] |= {_c.title: _c.zh} | {one.title: one.zh for one in _c.contestants}

WORDS = {
    "en": dict(
        head="| work | this book | | instead | | times as long |",
        none="No measurement is kept yet: `make bench` makes one on your machine.",
        caption="Seconds, median of {rounds} rounds and in brackets the least and the most; *times as long* is taken "
                "inside each round. {cpu}, {cores} cores, {bf16}, torch {torch}, transformers {transformers}, {date}; "
                "load {before} before{busy}.{runs}{grown}",
        runs=" Not all in one run: {}.", run="{} on {} at {}",
        grown=" More data, one epoch, in seconds and the most memory of the process: {}.", size="{:,} texts {} s, {:,} MB",
        bf16={True: "with bfloat16", False: "without bfloat16"}, busy=": **other work was running**",
        all="the same answers", some="{:.2%} the same answers"),
    "zh": dict(
        head="| 任务 | 本书 | | 对手 | | 耗时倍数 |",
        none="还没有保存的测量结果：`make bench` 会在你的机器上测一次。",
        caption="单位为秒：{rounds} 轮的中位数，括号内是最小值和最大值；耗时倍数在每一轮内计算。{cpu}，{cores} 核，{bf16}，"
                "torch {torch}，transformers {transformers}，{date}；开始前负载 {before}{busy}。{runs}{grown}",
        runs="不是一次测完的：{}。", run="{} 测于 {}（{}）",
        grown="更多数据，一轮，秒数与进程内存峰值：{}。", size="{:,} 条文本 {} 秒、{:,} MB",
        bf16={True: "支持 bfloat16", False: "不支持 bfloat16"}, busy="：**当时还有别的任务在运行**",
        all="答案相同", some="{:.2%} 的答案相同"),
}


def pairs(contest):
    "(ours, theirs) of a contest, each that is ours with each that is not."
    timed = [entry for entry in contest["contestants"] if entry["seconds"]]
    return [(a, b) for a in timed if a["ours"] for b in timed if not b["ours"]]


def same_answers(entry, words):
    "In brackets how many of our answers a contestant gives, too; nothing where there are none."
    if "agreement" not in entry: return ""
    return f" ({words['all']})" if entry["agreement"] == 1 else f" ({words['some'].format(entry['agreement'])})"


def readme_rows(results, language):
    def called(title): return TITLES[language].get(title, title)
    for contest in results["contests"]:
        if not contest["compared"]: continue
        for a, b in pairs(contest):
            theirs = called(b["title"]) + same_answers(b, WORDS[language])
            yield "| " + " | ".join([called(contest["title"]), called(a["title"]), spread(a["seconds"]), theirs,
                                     spread(b["seconds"]), f"**{spread(ratios(b, a))}**"]) + " |"


def runs_of(results, words):
    "Which contest is of which run, where there are several; nothing where one run has measured all."
    runs = {}
    for contest in results["contests"]: runs.setdefault((contest.get("date", "")[:10], contest.get("commit")), []).append(contest["name"])
    if len(runs) < 2: return ""
    return words["runs"].format("; ".join(words["run"].format(", ".join(names), date, commit) for (date, commit), names in runs.items()))


def grown_of(results, words):
    "What more data costs, in words; nothing where it was not measured."
    there = [one for c in results["contests"] if c["name"] == "growing" for one in c["contestants"] if one["seconds"]]
    sizes = [words["size"].format(one["rows"], spread(one["seconds"]), one["peak_mb"]) for one in there]
    return words["grown"].format("; ".join(sizes)) if sizes else ""


def readme_part(results, language):
    "What stands between the marks in a README; results may be None."
    words = WORDS[language]
    if results is None: return words["none"]
    rounds = sorted({len(entry["seconds"]) for c in results["contests"] if c["compared"]
                     for entry in c["contestants"]} - {0}) or [0]
    facts = dict(rounds="–".join(map(str, sorted({rounds[0], rounds[-1]}))), cpu=results["machine"]["cpu"],
                 cores=results["machine"]["cores"], bf16=words["bf16"][results["machine"]["bfloat16"]],
                 date=results["date"][:10], busy=words["busy"] if results["busy"] else "", runs=runs_of(results, words),
                 grown=grown_of(results, words),
                 before=results["load_before"][0] if results["load_before"] else "?", **{
                     name: results["versions"][name] for name in ("torch", "transformers")})
    return "\n".join([words["head"], "|---|---|---|---|---|---|", *readme_rows(results, language), "",
                      words["caption"].format(**facts)])


def with_part(text, part):
    "A README with another part between the marks."
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end: raise ValueError(f"the README has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def kept():
    "The results of the README, or None."
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else None


def update_readmes():
    results = kept()
    for name, language in READMES.items():
        path = REPO / name
        path.write_text(with_part(path.read_text(encoding="utf-8"), readme_part(results, language)), encoding="utf-8")
    return f"{' and '.join(READMES)}: " + ("no results are kept yet" if results is None else f"the table of {KEPT}")


def joined(results, before):
    "Results, and of those kept before the contests that this run left out; not of another machine or other versions."
    facts = "machine", "versions"
    if before is None or any(before.get(name) != results[name] for name in facts): return results
    run = {name: before.get(name) for name in ("date", "commit")}            # of a file in which contests did not say it
    contests = {c["name"]: run | c for c in before["contests"]} | {c["name"]: c for c in results["contests"]}
    if len(contests) == len(results["contests"]): return results
    load = [max(pair) for pair in zip(before["load_before"] or [0, 0, 0], results["load_before"] or [0, 0, 0])]
    return results | dict(contests=list(contests.values()), busy=before["busy"] or results["busy"], load_before=load)


def keep(results):
    "Make results those of the README; refused for what is no whole measurement."
    if not results["complete"] or results["quick"]:
        raise SystemExit("only a whole run is kept: this one was quick or was interrupted")
    results = joined(results, kept())
    KEPT.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return update_readmes()
