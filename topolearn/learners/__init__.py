"""Edge learners: MaskConnect, continuous weights (TopoNet), SparseMask, scores of trained blocks, and rules."""

from topolearn.learners.ablation import Ablation
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
from topolearn.learners.random_blocks import RandomBlocks
from topolearn.learners.similarity import Similarity
from topolearn.learners.sparsemask import SparseMask
from topolearn.learners.taylor import Taylor
from topolearn.learners.trial import Trial

__all__ = [
    "ALIASES",
    "LEARNERS",
    "Ablation",
    "Candidates",
    "Continuous",
    "EdgeLearner",
    "Fixed",
    "MaskConnect",
    "Options",
    "Phase",
    "RandomBlocks",
    "SearchSchedule",
    "Similarity",
    "SparseMask",
    "Taylor",
    "Trial",
    "learner_class",
    "make_learner",
    "register_learner",
]
