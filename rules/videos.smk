# Annotation files → table; videos → manifest shards; the demo's own videos.
rule render:
    output:
        dataset="results/data/{dataset}/dataset.json",
        annotations="results/data/{dataset}/annotations.json",
    log:
        "results/data/{dataset}/logs/render.log",
    benchmark:
        "results/data/{dataset}/logs/render.tsv"
    conda:
        "../envs/video.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=content("render_settings"),
        code=content("render_code"),
        folder="results/data/{dataset}",
    shell:
        "workflow_script render_demo.py"
        " --out {params.folder} --jobs {threads} {params.settings} 2> {log}"


rule annotate:
    input:
        need("annotation_source"),
    output:
        "results/annotations/{dataset}.json",
    log:
        "results/annotations/logs/{dataset}.annotate.log",
    benchmark:
        "results/annotations/logs/{dataset}.annotate.tsv"
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("annotate"),
        code=code("annotate"),
        content=content("annotation_content"),
    shell:
        "tad annotate {input} --spec {params.spec:q} --out {output} 2> {log}"


rule probe:
    input:
        annotations="results/annotations/{dataset}.json",
        rendered=need("rendered"),
    output:
        "results/videos/{dataset}/{shard}.json",
    log:
        "results/videos/{dataset}/logs/{shard}.probe.log",
    benchmark:
        "results/videos/{dataset}/logs/{shard}.probe.tsv"
    conda:
        "../envs/video.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        spec=spec("probe"),
        code=code("probe"),
        videos=content("video_folder"),
        content=content("video_content"),
    shell:
        "tad probe {params.videos:q} --annotations {input.annotations} --shard {wildcards.shard}"
        " --spec {params.spec:q} --out {output} 2> {log}"
