# Detections → score and picture; scores of several seeds → their mean; all scores → one table.
rule evaluate:
    input:
        detections="results/{run}/detections.json",
        annotations=need("annotations_of"),
        model="results/{run}/model.safetensors",
    output:
        score="results/{run}/map.json",
        figure="results/{run}/timeline.png",
        diagnosis="results/{run}/diagnosis/diagnosis.json",
        pictures=expand(
            "results/{{run}}/diagnosis/{name}.png",
            name=["errors", "sensitivity", "missed", "calibration"],
        ),
    log:
        "results/{run}/logs/evaluate.log",
    benchmark:
        "results/{run}/logs/evaluate.tsv"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=spec("evaluate"),
        code=code("evaluate"),
    shell:
        "tad evaluate {input.detections} --annotations {input.annotations} --model {input.model}"
        " --spec {params.spec:q} --figure {output.figure} --diagnosis {output.diagnosis} --out {output.score} 2> {log}"


rule summarise:
    input:
        scores=need("seed_scores"),
        detections=need("seed_detections"),
        annotations=need("annotations_of"),
    output:
        "results/{run}/map.json",
    log:
        "results/{run}/logs/summarise.log",
    benchmark:
        "results/{run}/logs/summarise.tsv"
    wildcard_constraints:
        run=flow.pattern("summaries"),
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=spec("summarise"),
        code=code("summarise"),
    shell:
        "tad summarise {input.scores} --detections {input.detections} --annotations {input.annotations}"
        " --spec {params.spec:q} --out {output} 2> {log}"


rule table:
    input:
        expand("results/{run}/map.json", run=ready_runs()),
    output:
        "results/table.md",
    log:
        "results/logs/table.log",
    benchmark:
        "results/logs/table.tsv"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    params:
        code=content("table_code"),
    shell:
        "workflow_script results_table.py" " {input} --out {output} 2> {log}"
