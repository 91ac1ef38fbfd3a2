"""The recurrence of the Elman cell with one GPU kernel per direction, for NVIDIA Hopper GPUs.

The kernels compile for an H100 and are tested in JAX's interpreter of them, which does not round to
TF32. They have not yet been run on a GPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

ROWS = 64  # examples per thread block: the rows of a Hopper matrix instruction
COLUMNS = 32  # widths are padded to a multiple of this: 128 bytes, one row of a shared-memory tile
MAX_WIDTH = 160  # at this width, the matrix, the state and two inputs fill a block's shared memory

Combine = Callable[..., jax.Array]


def is_supported(projected: jax.Array, kernel: jax.Array) -> bool:
    """Whether a kernel supports these arrays, the precision of products and all visible GPUs."""
    known = all(isinstance(size, int) for size in projected.shape)  # unlike in jax.export
    shapes = projected.ndim == 3 and known and kernel.shape[0] <= MAX_WIDTH
    config: Any = jax.config
    precise = config.jax_default_matmul_precision not in (None, "default", "tensorfloat32")
    gpus = [device for device in jax.devices() if device.platform == "gpu"]
    hopper = all(str(device.compute_capability).startswith("9.") for device in gpus)
    return hopper and shapes and not precise and projected.dtype == kernel.dtype == jnp.float32


def scan_states(
    activation: Callable[[jax.Array], jax.Array],
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    **options: Any,
) -> jax.Array:
    """Compute all states from input projections (time, batch, hidden) and an initial state."""

    if activation is nn.relu:  # its custom derivative is not allowed in a kernel
        activation = partial(jnp.maximum, 0)

    def combine(product: jax.Array, projected: jax.Array) -> jax.Array:
        return activation(product + projected)

    recur = _without_derivative(partial(_recur, combine, **options))
    return recur(carry @ kernel, kernel, projected)


def scan_deltas(
    derivative: Callable[[jax.Array], jax.Array],
    of_last: jax.Array,
    kernel: jax.Array,
    states: jax.Array,
    of_states: jax.Array | None,
    **options: Any,
) -> jax.Array:
    """Compute the gradients at the activation's input, backwards over all time steps."""

    def combine(product: jax.Array, state: jax.Array, *of_state: jax.Array) -> jax.Array:
        if of_state:
            product = product + of_state[0]
        return product * derivative(state)

    inputs = (states,) if of_states is None else (states, of_states)
    recur = _without_derivative(partial(_recur, combine, reverse=True, **options))
    return recur(of_last, kernel.T, *inputs)


def _without_derivative(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Wrap ``function`` so that differentiating it raises a clear error."""
    refusing = jax.custom_jvp(function)

    @refusing.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise TypeError(
            "the Hopper kernel supports first derivatives only; use recurrence='fast', or "
            "one_kernel=False"
        )

    return refusing


def _recur(
    combine: Combine,
    product: jax.Array,
    matrix: jax.Array,
    *inputs: jax.Array,
    reverse: bool = False,
    interpret: Any = None,
) -> jax.Array:
    r"""Compute :math:`s_t = f(s_{t-1} M, x_t)` for all t, given the first product.

    Examples are independent, so each thread block takes ``ROWS`` of them through all time steps. It
    keeps the matrix and the states in shared memory, and there is only one launch. Products are
    rounded to TF32, XLA's default on this GPU.

    Args:
      combine: f; takes a product and one time step of each input.
      product: (batch, hidden), the product at the first time step.
      matrix: (hidden, hidden).
      inputs: one or two arrays, (time, batch, hidden).
      reverse: run from the last time step to the first.
      interpret: parameters of the interpreter, to run on a CPU; None to compile.

    Source: G. Diamos et al., "Persistent RNNs: stashing recurrent weights on-chip" (2016).
    """
    from jax.experimental.pallas import mosaic_gpu as gpu  # slow to import, and seldom needed

    time, batch, hidden = inputs[0].shape
    rows, width = -(-batch // ROWS) * ROWS, -(-hidden // COLUMNS) * COLUMNS
    pad = partial(_pad, width=width)
    # In TF32, products need both operands contiguous along the contraction axis. The interpreter
    # does not support transposed operands.
    matrix = pad(matrix if interpret else matrix.T, rows=width)
    tiles = gpu.TilingTransform((8, COLUMNS)), gpu.SwizzleTransform(128)
    block = gpu.SMEM((ROWS, width), jnp.float32, transforms=tiles)
    kernel = gpu.kernel(
        partial(_kernel, combine=combine, reverse=reverse, transposed=not interpret),
        out_type=jax.ShapeDtypeStruct((time, rows, width), jnp.float32),
        scratch_types={
            "matrix": gpu.SMEM((width, width), jnp.float32, transforms=tiles),
            "state": block,
            "blocks": [block] * len(inputs),
            "begun": gpu.Barrier(num_arrivals=2),
            "loaded": gpu.Barrier(num_arrivals=len(inputs)),
        },
        grid=(rows // ROWS,),
        grid_names=("block",),
        interpret=interpret,
    )
    states = kernel(pad(product, rows=rows), matrix, *(pad(array, rows=rows) for array in inputs))
    return states[:, :batch, :hidden]


def _pad(array: jax.Array, *, rows: int, width: int) -> jax.Array:
    """``array`` with zeros after its last two axes, up to these sizes."""
    after = (0, rows - array.shape[-2]), (0, width - array.shape[-1])
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + list(after))


def _kernel(
    first: Any,
    matrix_in: Any,
    *inputs_and_states: Any,
    combine: Combine,
    reverse: bool,
    transposed: bool,
    matrix: Any,
    state: Any,
    blocks: Any,
    begun: Any,
    loaded: Any,
) -> None:
    """What one block of threads does, with its rows of the batch."""
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu as gpu

    *inputs, states = inputs_and_states
    time = states.shape[0]
    rows = pallas.ds(lax.axis_index("block") * ROWS, ROWS)

    def place(step: Any) -> Any:
        return time - 1 - step if reverse else step

    def load(step: Any) -> None:
        for array, own in zip(inputs, blocks, strict=True):
            gpu.copy_gmem_to_smem(array.at[place(step), rows], own, loaded)

    def multiply(sums: Any) -> jax.Array:
        gpu.wgmma(sums, state, gpu.transpose_ref(matrix, (1, 0)) if transposed else matrix)
        return sums[...]

    def advance(step: jax.Array, product: jax.Array) -> jax.Array:
        gpu.barrier_wait(loaded)
        new = combine(product, *(own[...] for own in blocks))
        gpu.wait_smem_to_gmem(0, wait_read_only=True)  # the state before has been copied
        state[...] = new
        gpu.commit_smem()
        gpu.copy_smem_to_gmem(state, states.at[place(step), rows])
        pallas.when(step + 1 < time)(partial(load, step + 1))
        return pallas.run_scoped(multiply, gpu.ACC(state.shape, jnp.float32))

    gpu.copy_gmem_to_smem(matrix_in, matrix, begun)
    gpu.copy_gmem_to_smem(first.at[rows], state, begun)
    load(0)
    gpu.barrier_wait(begun)
    lax.fori_loop(0, time, advance, state[...])
    gpu.wait_smem_to_gmem(0)
