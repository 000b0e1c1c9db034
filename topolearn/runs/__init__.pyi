from .config import read_config as read_config
from .learned import Learned as Learned
from .learned import read_learned as read_learned
from .result import FitResult as FitResult
from .result import read_result as read_result
from .searched import SearchedRun as SearchedRun
from .searched import load_searched as load_searched
from .trained import load_model as load_model
