"The cells of a report's template in this process, without a kernel."
from finetune_book.report.template import find_template, read_template


def exec_cell(source, space): exec(compile(source, "cell", "exec"), space)


def run_cells(template, **values):
    "The names that a template's cells leave, run with these parameters; `told` are the metrics and data that it recorded."
    cells, told = [c.source for c in read_template(find_template(template)).cells if c.cell_type == "code"], {}
    space = {"record": lambda metrics, data: told.update(metrics=metrics, data=data)}
    for i, source in enumerate(cells):
        if i == 1: space |= values                     # in the place of what checks parameters, which needs a kernel
        else: exec_cell(source, space)
    return space | {"told": told}
