"""Threads that wait for each other: sleeping at once, as `finetune_book.processes` lets them wait, and spinning, as OpenMP does by itself; one training
alone, and two at once on the same cores, in bfloat16 where the processor has it."""
from sweep_threads import STEPS, TRAIN, plain, race

from finetune_book.processes import WAITING
from finetune_book.train.fast import knows_bfloat16

LOWER = TRAIN.replace("loss = model(", "with torch.autocast('cpu', torch.bfloat16): loss = model(")

if __name__ == "__main__":
    ways = {"a short while": plain() | WAITING, "not at all": plain() | {"OMP_WAIT_POLICY": "PASSIVE"}, "as long as OpenMP likes": plain()}
    lower = knows_bfloat16("cpu")
    for jobs in (1, 2):
        title = f"{jobs} training{'s at once' if jobs > 1 else ''} of book-bert in {'bfloat16' if lower else 'float32'}, {STEPS} steps of 16 texts each; waiting threads spin"
        race(ways, jobs, title, LOWER if lower else TRAIN)
