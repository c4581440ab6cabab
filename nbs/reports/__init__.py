"""Marks the folder as package data; setuptools maps it to `finetune_book.report_templates`."""
