"""Posteriors of posteriordb as programs, with the reference figures that a fit is compared with.

``python -m pushforward.models.posteriordb [NAME ...]`` fits all, or those named, and prints a
table.

Source: Magnusson et al., posteriordb: testing, benchmarking and developing Bayesian inference
algorithms (arXiv 2407.04967).
"""

from collections.abc import Callable

from .autoregression import arK
from .comparison import Comparison, compared
from .correlated import blr
from .diamonds import diamonds
from .files import Built
from .gaussian_process import gp_pois_regr
from .hidden import hmm_drive_0, hmm_example
from .items import irt_2pl
from .kilpisjarvi import kilpisjarvi
from .linear import (
    earn_height,
    kidscore_interaction,
    kidscore_interaction_c2,
    logearn_interaction,
    logmesquite,
    nes,
)
from .mixture import low_dim_gauss_mix
from .rats import rats_model
from .schools import eight_schools_noncentered
from .survival import gehan_weibull
from .volatility import garch11

POSTERIORS: dict[str, Callable[[], Built]] = {
    "arK-arK": arK,
    "bball_drive_event_0-hmm_drive_0": hmm_drive_0,
    "diamonds-diamonds": diamonds,
    "earnings-earn_height": earn_height,
    "earnings-logearn_interaction": logearn_interaction,
    "eight_schools-eight_schools_noncentered": eight_schools_noncentered,
    "garch-garch11": garch11,
    "gehan_weibull": gehan_weibull,
    "gp_pois_regr-gp_pois_regr": gp_pois_regr,
    "hmm_example-hmm_example": hmm_example,
    "irt_2pl-irt_2pl": irt_2pl,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kidiq_with_mom_work-kidscore_interaction_c2": kidscore_interaction_c2,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": low_dim_gauss_mix,
    "mesquite-logmesquite": logmesquite,
    "nes2000-nes": nes,
    "rats_data-rats_model": rats_model,
    "sblrc-blr": blr,
}
"""Each gives a conditioned program, with the reference's names of sites, and its arguments."""

__all__ = ["POSTERIORS", "Built", "Comparison", "compared"]
