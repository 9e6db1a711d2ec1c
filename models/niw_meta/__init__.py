"""Few-shot learning by one hierarchical prior over the parameters of episodes."""

from .curvature import Quadratic, quadratic
from .estimator import LocalPosterior, NIWMeta
from .likelihoods import Categories, Gaussian
from .local import local_posterior
from .program import episode_bound, episodes, guide, niw

__all__ = [
    "Categories",
    "Gaussian",
    "LocalPosterior",
    "NIWMeta",
    "Quadratic",
    "episode_bound",
    "episodes",
    "guide",
    "local_posterior",
    "niw",
    "quadratic",
]
