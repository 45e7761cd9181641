# From untrimmed videos to results/<run>/map.json. Each rule runs one `tad` command; the settings are in config.yaml.
from snakemake.utils import min_version

min_version("9.20")


include: "rules/config.smk"


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/videos.smk"
include: "rules/features.smk"
include: "rules/detector.smk"
include: "rules/evaluate.smk"
include: "rules/records.smk"


rule all:
    default_target: True
    input:
        ready_scores,
        "results/table.md",
