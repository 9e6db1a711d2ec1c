"""The one owner of unconstraining transforms, their Jacobians and starting points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform
from torch.distributions.utils import tril_matrix_to_vec, vec_to_tril_matrix
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from .errors import (
    BranchError,
    DataError,
    InitializationError,
    SupportError,
    UnsupportedDistributionError,
    located,
)


class LowerCholeskyVector(Transform):
    """Vectors [k (k + 1) / 2] to lower triangular matrices [k, k] with a positive diagonal."""

    domain = constraints.real_vector
    codomain = constraints.lower_cholesky
    bijective = True

    def __init__(self, diagonal: Transform) -> None:
        super().__init__()
        self.diagonal = diagonal

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x)
        diagonal: Tensor = self.diagonal(_diagonal(matrix))
        return matrix.tril(-1) + diagonal.diag_embed()

    def _inverse(self, y: Tensor) -> Tensor:
        matrix = y.tril(-1) + self.diagonal.inv(_diagonal(y)).diag_embed()
        return tril_matrix_to_vec(matrix)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        free = _diagonal(vec_to_tril_matrix(x))
        return _log_det(self.diagonal, free, _diagonal(y)).sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        k = (math.isqrt(8 * shape[-1] + 1) - 1) // 2
        return torch.Size((*shape[:-1], k, k))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


class UnitLowerCholeskyVector(T.CorrCholeskyTransform):
    """Vectors [k (k - 1) / 2] to lower triangular matrices [k, k] with a diagonal of ones."""

    codomain: Constraint = constraints.unit_lower_cholesky  # type: ignore[assignment]

    def _call(self, x: Tensor) -> Tensor:
        matrix = vec_to_tril_matrix(x, diag=-1)
        return matrix + torch.eye(matrix.shape[-1], dtype=x.dtype, device=x.device)

    def _inverse(self, y: Tensor) -> Tensor:
        return tril_matrix_to_vec(y, diag=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: object = None) -> Tensor:
        return torch.zeros_like(x).sum(-1)


class CorrCholeskyVector(T.CorrCholeskyTransform):
    """Vectors [k (k - 1) / 2] to Cholesky factors [k, k] of correlation matrices.

    The log determinant is taken from ``x``: torch takes it from ``1 - cumsum(y * y)``, which rounds
    to zero or below near strong correlations and then is -inf or NaN.
    """

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: object = None) -> Tensor:
        # y[i, j] = z[i, j] prod_{m < j} sqrt(1 - z[i, m]^2) with z = tanh(x), so log(1 - z[i, m]^2)
        # counts once for z itself and half for each later y[i, j], j = m + 1 .. i - 1.
        weights = [1 + (i - 1 - m) / 2 for i in range(y.shape[-1]) for m in range(i)]
        log_sech_squared = 2 * (math.log(2.0) - x - torch.nn.functional.softplus(-2 * x))
        return (log_sech_squared * x.new_tensor(weights)).sum(-1)


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _log_det(transform: Transform, x: Tensor, y: Tensor) -> Tensor:
    return cast(Tensor, transform.log_abs_det_jacobian(x, y))  # type: ignore[no-untyped-call]


def _corr_matrix() -> Transform:
    return T.ComposeTransform([CorrCholeskyVector(), T.CorrMatrixCholeskyTransform().inv])


def _positive_definite() -> Transform:
    return T.ComposeTransform([LowerCholeskyVector(T.ExpTransform()), T.CholeskyTransform().inv])


# Where torch and Pyro have no bijection, or one that loses accuracy.
_OWN: dict[type[Constraint], Callable[[], Transform]] = {
    type(constraints.corr_cholesky): CorrCholeskyVector,
    type(constraints.corr_matrix): _corr_matrix,
    type(constraints.lower_cholesky): partial(LowerCholeskyVector, T.ExpTransform()),
    type(constraints.softplus_lower_cholesky): partial(LowerCholeskyVector, T.SoftplusTransform()),
    type(constraints.unit_lower_cholesky): UnitLowerCholeskyVector,
    type(constraints.positive_definite): _positive_definite,
    type(constraints.positive_semidefinite): _positive_definite,
}
Blame = Callable[[Tensor], str] | None  # says which sites are at fault at a point


def bound_values(bound: Any) -> list[float] | None:
    """The entries of a bound of a support; ``None`` if it depends on a random value."""
    if not isinstance(bound, Tensor):
        return [bound]
    try:
        return list(bound.detach().flatten().tolist())
    except (BranchError, RuntimeError):  # abstract, meta, fake and vmapped tensors
        return None


def bijection(
    constraint: Constraint, site: str | None = None, dtype: torch.dtype | None = None
) -> Transform:
    """The smooth bijection from unconstrained reals to (the interior of) ``constraint``.

    It computes with the bounds of the constraint in ``dtype``, if one is given.

    Errors:
        UnsupportedDistributionError: the constraint is discrete, its bounds depend on a random
            value, or it has no global coordinates (a sphere).
    """
    if isinstance(constraint, constraints.independent):
        inner = bijection(constraint.base_constraint, site, dtype)
        return T.IndependentTransform(inner, constraint.reinterpreted_batch_ndims)
    if isinstance(constraint, type(constraints.dependent)):
        hint = "give its distribution a `support`"
        raise _unsupported("an unknown support has no unconstrained coordinates", site, hint)
    if constraint.is_discrete:
        hint = "enumerate or marginalise it, or use a kernel for discrete sites"
        raise _unsupported(f"discrete values ({constraint}) cannot be unconstrained", site, hint)
    bounds = [b for name, b in vars(constraint).items() if name.endswith("_bound")]
    if any(bound_values(b) is None for b in bounds):
        hint = "write the site as an affine function of one with a fixed support"
        raise _unsupported("the bounds of the support depend on a random value", site, hint)
    if dtype is not None and any(isinstance(b, Tensor) for b in bounds):
        constraint = type(constraint)(*(torch.as_tensor(b).to(dtype) for b in bounds))
    if type(constraint) in _OWN:
        return _OWN[type(constraint)]()
    try:
        return cast(Transform, biject_to(constraint))
    except NotImplementedError:
        hint = "write it as a function of other sites (a normalised Normal lies on the sphere)"
        what = f"no bijection from the reals onto {constraint} is known"
        raise _unsupported(what, site, hint) from None


def _unsupported(what: str, site: str | None, hint: str) -> UnsupportedDistributionError:
    return UnsupportedDistributionError(located(what, site=site, hint=hint))


@dataclass(frozen=True)
class Block:
    """The place of one site in the flat vector: entries ``start`` to ``stop``."""

    name: str
    shape: torch.Size
    free_shape: torch.Size
    dtype: torch.dtype
    constraint: Constraint
    transform: Transform
    start: int
    stop: int


class Layout:
    """A bijection between flat real vectors [d] and dicts of constrained values.

    ``sites`` maps each name to (constraint, shape of the constrained value, dtype); the vector
    holds them in that order, in the widest of their dtypes.
    """

    def __init__(self, sites: Mapping[str, tuple[Constraint, Sequence[int], torch.dtype]]) -> None:
        blocks, start, dtype = [], 0, torch.float32 if sites else torch.get_default_dtype()
        for name, (constraint, shape, site_dtype) in sites.items():
            if not site_dtype.is_floating_point:
                raise _unsupported(f"{site_dtype} cannot be unconstrained", name, "use floats")
            transform = bijection(constraint, name, site_dtype)
            shape = torch.Size(shape)
            free_shape = transform.inverse_shape(shape)  # type: ignore[no-untyped-call]
            if transform.forward_shape(free_shape) != shape:  # type: ignore[no-untyped-call]
                raise DataError(located(f"{list(shape)} does not fit {constraint}", site=name))
            place = start, start + free_shape.numel()
            blocks.append(Block(name, shape, free_shape, site_dtype, constraint, transform, *place))
            start, dtype = place[1], torch.promote_types(dtype, site_dtype)
        self.blocks = tuple(blocks)
        self.size: int = start
        self.dtype = dtype

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Split ``u`` [d] into constrained values, with log |det d values / d u| (a scalar)."""
        values, log_det = {}, u.new_zeros(())
        for block in self.blocks:
            free = u[block.start : block.stop].reshape(block.free_shape).to(block.dtype)
            value = block.transform(free).to(block.dtype)
            values[block.name] = value
            log_det = log_det + _log_det(block.transform, free, value).sum().to(u.dtype)
        return values, log_det

    def pack(self, values: Mapping[str, Any]) -> Tensor:
        """The vector [d] that ``unpack`` sends to ``values``.

        Errors:
            DataError: a site is missing, unknown, or of another shape.
            SupportError: a value lies outside its support or on the boundary (not decided for
                values that are being traced or vmapped).
        """
        names = [block.name for block in self.blocks]
        if set(values) != set(names):
            missing, unknown = sorted(set(names) - set(values)), sorted(set(values) - set(names))
            raise DataError(located(f"sites missing: {missing}, unknown: {unknown}"))
        parts = [self._free(block, torch.as_tensor(values[block.name])) for block in self.blocks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=self.dtype)

    def _free(self, block: Block, value: Tensor) -> Tensor:
        if value.shape != block.shape:
            what = f"a value of shape {list(value.shape)} where {list(block.shape)} is needed"
            raise DataError(located(what, site=block.name))
        try:
            free: Tensor = block.transform.inv(value.to(block.dtype))
            inside = not _readable(value) or (
                bool(free.isfinite().all()) and _close(block.transform(free), value)
            )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            inside = False
        if not inside:
            what = f"the value {_shown(value)} is not in the interior of {block.constraint}"
            raise SupportError(located(what, site=block.name))
        return free.reshape(-1).to(self.dtype)

    def coordinate_names(self) -> list[str]:
        """One name for each entry of the vector: ``tau``, ``z[3]``, ``w[1, 2]``."""
        return [
            block.name + (str(list(index)) if index else "")
            for block in self.blocks
            for index in itertools.product(*map(range, block.free_shape))
        ]

    def site_of(self, coordinate: int) -> str:
        """The site that owns entry ``coordinate`` of the vector."""
        return next(block.name for block in self.blocks if coordinate < block.stop)


def _close(actual: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors agree to half of the digits of their dtype, on the scale of the whole."""
    scale = wanted.abs().amax().clamp(min=1.0) if wanted.numel() else 1.0
    return bool(((actual - wanted).abs() <= scale * torch.finfo(actual.dtype).eps ** 0.5).all())


def _readable(tensor: Tensor) -> bool:
    """Whether Python may look at the values of ``tensor``: it is not abstract, lane or proxy."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not (wrapped or tensor.is_meta or get_proxy_mode() is not None)


def _shown(value: Tensor) -> str:
    """At most four entries of a tensor, for messages."""
    entries = ", ".join(f"{x:.4g}" for x in value.flatten()[:4].tolist())
    return entries if value.ndim == 0 else f"[{entries}{', ...' if value.numel() > 4 else ''}]"


def initial(
    layout: Layout,
    log_density: Callable[[Tensor], Tensor],
    chains: int,
    draw_uniform: Callable[[tuple[int, ...]], Tensor],
    radius: float = 2.0,
    retries: int = 100,
    blame: Blame = None,
) -> Tensor:
    """Starting points [chains, d] where ``log_density`` and its gradient are finite.

    ``log_density`` takes one vector [d] and must work under ``torch.func.vmap``;
    ``draw_uniform(shape)`` draws from [-radius, radius].  Chains that fail draw again, at most
    ``retries`` times; every chain consumes its own draws whether the others fail or not.
    ``blame(u)`` may say which sites are at fault at ``u``.

    Errors:
        InitializationError: at once if a log density is NaN, and after the retries if some chain
            has no point with a finite log density and gradient.
    """
    value_and_grad = torch.func.vmap(torch.func.grad_and_value(log_density))
    u = draw_uniform((chains, layout.size))
    failing = torch.arange(chains, device=u.device)
    for attempt in range(retries + 1):
        if attempt:
            u = u.index_copy(0, failing, draw_uniform((chains, layout.size))[failing])
        gradient, value = value_and_grad(u[failing])
        nan = torch.isnan(value)
        if bool(nan.any()):
            raise _nan_error(layout, u[failing][nan][0], int(failing[nan][0]), blame)
        bad = ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
        failing = failing[bad]
        if len(failing) == 0:
            return u
        last = u[failing[0]], value[bad][0], gradient[bad][0]
    where = f"within {radius:g} of the origin for {len(failing)} of {chains} chains"
    raise _failed_error(layout, *last, f"{where} after {retries + 1} tries", blame)


def _nan_error(layout: Layout, u: Tensor, chain: int, blame: Blame) -> InitializationError:
    culprit = blame(u) if blame else f"at {_point(layout, u)}"
    what = f"the log density of chain {chain} is NaN: {culprit}"
    hint = "NaN is a mistake in the model (0 * inf, inf - inf, a negative scale), not a bad start"
    return InitializationError(located(what, hint=hint))


def _failed_error(
    layout: Layout, u: Tensor, value: Tensor, gradient: Tensor, where: str, blame: Blame
) -> InitializationError:
    if bool(torch.isfinite(value)):
        coordinates = torch.nonzero(~torch.isfinite(gradient)).flatten().tolist()
        sites = ", ".join(f"'{s}'" for s in dict.fromkeys(map(layout.site_of, coordinates)))
        failure = f"the gradient of the log density is not finite in {sites}"
    else:
        failure = f"the log density is {value.item():g}"
    culprit = f"{blame(u)}; " if blame else ""
    what = f"no starting point {where}: {failure}; {culprit}last tried {_point(layout, u)}"
    hint = "check that data and scales fit the model, and that the prior allows such data"
    return InitializationError(located(what, hint=hint))


def _point(layout: Layout, u: Tensor) -> str:
    """The constrained values at ``u``, for messages."""
    values, _ = layout.unpack(u)
    return ", ".join(f"{name} = {_shown(value)}" for name, value in values.items()) or "no latents"
