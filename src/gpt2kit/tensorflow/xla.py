"""Whether XLA compiles what is being traced."""

from __future__ import annotations

import tensorflow as tf

__all__ = ["inside_xla"]


def inside_xla() -> bool:
    """Tell whether a function with `jit_compile=True` is being traced.

    TensorFlow has no public way to ask; a graph knows it by the context that the function has entered.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)  # of a function inside a function
    return False
