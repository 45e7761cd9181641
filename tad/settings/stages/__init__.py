"""Settings of each stage: frozen data classes that reject unknown keys and can be imported without torch.

A stage receives all of its settings as one such object, serialised as JSON. Snakemake compares that text, so a stage
cannot read a setting whose change goes undetected. Each stage has a module with its settings and their resolution from
the rows of config.yaml; `tad.settings.stage_table` lists the stages.
"""

from tad.settings.base import Count as Count
from tad.settings.base import Fraction as Fraction
from tad.settings.base import Plugin as Plugin
from tad.settings.base import Positive as Positive
from tad.settings.base import Settings as Settings
from tad.settings.base import Spec as Spec
from tad.settings.base import explain as explain
from tad.settings.clips import ClipSpec as ClipSpec
from tad.settings.clips import NetworkSpec as NetworkSpec
from tad.settings.distill import DistillSpec as DistillSpec
from tad.settings.distill import TeacherSpec as TeacherSpec
from tad.settings.frames import FrameSpec as FrameSpec
from tad.settings.sections import DetectSpec as DetectSpec
from tad.settings.sections import EvalSpec as EvalSpec
from tad.settings.sections import NmsSpec as NmsSpec
from tad.settings.sections import PretrainRecipe as PretrainRecipe
from tad.settings.sections import TrainSpec as TrainSpec
from tad.settings.stages.annotate import AnnotateSpec as AnnotateSpec
from tad.settings.stages.check import CheckSpec as CheckSpec
from tad.settings.stages.classify import ClassifySpec as ClassifySpec
from tad.settings.stages.classify import ClassifyStageSpec as ClassifyStageSpec
from tad.settings.stages.convert import ConvertSpec as ConvertSpec
from tad.settings.stages.detect import DetectStageSpec as DetectStageSpec
from tad.settings.stages.detect import FusedSpec as FusedSpec
from tad.settings.stages.encode import EncodeSpec as EncodeSpec
from tad.settings.stages.evaluate import EvaluateStageSpec as EvaluateStageSpec
from tad.settings.stages.extract import ExtractSpec as ExtractSpec
from tad.settings.stages.extract import RecipeSpec as RecipeSpec
from tad.settings.stages.index import IndexSpec as IndexSpec
from tad.settings.stages.join import JoinSpec as JoinSpec
from tad.settings.stages.merge import MergeSpec as MergeSpec
from tad.settings.stages.page import PageSpec as PageSpec
from tad.settings.stages.page import PageStageSpec as PageStageSpec
from tad.settings.stages.pretrain import PretrainSpec as PretrainSpec
from tad.settings.stages.probe import ProbeSpec as ProbeSpec
from tad.settings.stages.summarise import SummariseStageSpec as SummariseStageSpec
from tad.settings.stages.suppress import ExternalSpec as ExternalSpec
from tad.settings.stages.suppress import SuppressStageSpec as SuppressStageSpec
from tad.settings.stages.train import TrainStageSpec as TrainStageSpec
