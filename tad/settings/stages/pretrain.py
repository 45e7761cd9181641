"""Settings of pretrain, resolved from the rows of config.yaml."""

from tad.settings.base import Names, Plugin, Settings, StageSpec
from tad.settings.clips import ClipSpec
from tad.settings.config import Config
from tad.settings.sections import PretrainRecipe


class PretrainSpec(StageSpec, PretrainRecipe):
    """Settings of pretrain: a clip encoder trained on the train split with TSP's two heads (action, region)."""

    backbone: Plugin
    clip: ClipSpec

    @classmethod
    def resolve(cls, config: Config, names: Names) -> Settings:
        recipe = config.recipe(names.features, names.dataset)
        pretrain = config.resolve_features(names.features, names.dataset).sections["pretrain"]
        return {"backbone": recipe["backbone"], "clip": recipe["clip"], **pretrain}
