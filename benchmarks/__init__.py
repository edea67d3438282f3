"""pockengine beside PyTorch, TensorFlow and JAX: step times and memory, in one interleaved run.

    __main__.py     python -m benchmarks: options, and the order of things
    workloads.py    what is trained: network, batch, kind of batch norm
    networks.py     the networks in PyTorch; keras_networks.py the same in Keras
    prepare.py      compiles our programs of a workload, writes weights and a batch for all
    worker.py       one contender in a process of its own; contenders/ has one file for each
    measure.py      starts the workers, lets them take turns, watches their memory
    summary.py      medians, ratios, and the tables made of them
    render.py       results/latest.json -> the tables of docs/benchmarks.md and the plot

Beside these, each with a question of its own: kernels.py (single kernels), compile_time.py (import
to artifact), extra_memory.py (what is kept for the backward pass).
"""
