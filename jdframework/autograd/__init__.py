"""What is done with autograd's graphs and fields: walking, differentiating, adding to ``.grad``.

In: tensors with a graph, modules. Out: gradients, and ``.grad`` with them added or put back as it
was. ``graph`` is the file to read first.
"""
