"""The stages, in their order. Each is a module that the batch engine takes for an editor, and that says which rows it works on:

ABOUT                                         a `settings.About`
rows(kept)                                    what the stage before has kept -> (id, Work)
load(choice)                                  the tools of a worker process
edit_file(tools, work, output, progress)      (file or None, {"scores": {name: number}, ...}): one row's work
"""
