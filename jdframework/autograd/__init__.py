"""Works on autograd's graphs and fields: walks graphs, differentiates, adds to ``.grad``.

In: tensors with a graph, modules. Out: gradients, and ``.grad`` with them added or put back as it
was. ``graph`` is the file to read first.
"""
