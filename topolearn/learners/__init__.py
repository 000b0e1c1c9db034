"""Edge learners: MaskConnect, continuous weights (TopoNet), SparseMask, and rule-based baselines."""

from topolearn.learners.base import (
    ALIASES,
    LEARNERS,
    Candidates,
    EdgeLearner,
    Options,
    Phase,
    SearchSchedule,
    learner_class,
    make_learner,
    register_learner,
)
from topolearn.learners.continuous import Continuous
from topolearn.learners.fixed import Fixed
from topolearn.learners.maskconnect import MaskConnect
from topolearn.learners.sparsemask import SparseMask

__all__ = [
    "ALIASES",
    "LEARNERS",
    "Candidates",
    "Continuous",
    "EdgeLearner",
    "Fixed",
    "MaskConnect",
    "Options",
    "Phase",
    "SearchSchedule",
    "SparseMask",
    "learner_class",
    "make_learner",
    "register_learner",
]
