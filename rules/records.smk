# Artefacts that Snakemake has no record of (`.snakemake` was deleted, or results were copied without it): their stamps
# say whether they are current.
if workflow.is_main_process:
    said_plainly(mark_outdated, workflow.rules, flow)
