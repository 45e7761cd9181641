# Detections → score and plot; scores of several seeds → their mean; all scores → one table; a page to look at.
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
        env("base")
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=spec("evaluate"),
        code=code("evaluate"),
    shell:
        "TAD_CODE={params.code:q} tad evaluate {input.detections:q} --annotations {input.annotations:q} --model {input.model:q}"
        " --spec {params.spec:q} --figure {output.figure:q} --diagnosis {output.diagnosis:q}"
        " --out {output.score:q} 2> {log:q}"


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
        env("base")
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=spec("summarise"),
        code=code("summarise"),
    shell:
        "TAD_CODE={params.code:q} tad summarise {input.scores:q} --detections {input.detections:q} --annotations {input.annotations:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule table:
    input:
        ready_scores,
    output:
        "results/table.md",
    log:
        "results/logs/table.log",
    benchmark:
        "results/logs/table.tsv"
    conda:
        env("base")
    resources:
        mem_mb=500,
        runtime=10,
    params:
        code=content("table_code"),
    shell:
        "workflow_script results_table.py" " {input:q} --out {output:q} 2> {log:q}"


rule page:
    input:
        detections=need("page_detections"),
        annotations=need("annotations_of"),
        scores=need("page_scores"),
    output:
        report(
            directory("results/{run}/page"), htmlindex="index.html", category="Pages"
        ),
    log:
        "results/{run}/logs/page.log",
    benchmark:
        "results/{run}/logs/page.tsv"
    wildcard_constraints:
        run=flow.pattern("pages"),
    conda:
        env("video")
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        spec=spec("page"),
        code=code("page"),
        videos=content("page_videos"),
        content=content("page_content"),
    shell:
        "TAD_CODE={params.code:q} tad page {input.detections:q} --annotations {input.annotations:q} --scores {input.scores:q}"
        " --videos {params.videos:q} --spec {params.spec:q} --out {output:q} 2> {log:q}"
