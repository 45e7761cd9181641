# From untrimmed videos to results/<run>/map.json. Each rule is one `tad` command; settings are in config.yaml.
from snakemake.utils import min_version

min_version("9.20")


include: "rules/config.smk"


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/videos.smk"
include: "rules/features.smk"
include: "rules/detector.smk"
include: "rules/evaluate.smk"


rule all:
    default_target: True
    input:
        expand("results/{run}/map.json", run=ready_runs()),
        "results/table.md",
