"""Measure the methods of lessons 63 (adalora) and 64 (adapters) beside those of lesson 62 (lora): one training a row, written
to a CSV file as soon as it is done.

    python scripts/measure/measure_adapters.py                # measures what is missing, about 45 minutes, then the table
    python scripts/measure/measure_adapters.py --table        # the table of the rows that are there

Rows, steps and seeds are those of measure_lora.py, whose file has full tuning, the head alone and LoRA. "rate / 2" is half the
usual learning rate of the method. No test row is read.
"""
import measure_lora
from finetune_book.adapt import as_method

TEXT_WAYS = ("adalora", "adalora, rate / 2", "adapter", "adapter(place='block')", "ia3", "bitfit")
PICTURE_WAYS = ("adalora", "adapter", "ia3", "bitfit")


measure_lora.FACTORS["adalora, rate / 2"] = .5


def ways(names): return {name: as_method(name.partition(", ")[0]) for name in names}


def choose(told):
    for name, chosen in (("clinic_notes", TEXT_WAYS), ("digits", PICTURE_WAYS)):
        read, estimator, rows, _, settings = measure_lora.SETS[name]
        asked = [way for way in chosen if not told.ways or way in told.ways]
        measure_lora.SETS[name] = read, estimator, rows, ways(asked), settings


if __name__ == "__main__": measure_lora.main(__doc__, "adapters.csv", choose)
