# Annotation files → table; videos → manifest shards; a check of one against the other; the rendered demo videos.
rule render:
    output:
        dataset="results/data/{dataset}/dataset.json",
        annotations="results/data/{dataset}/annotations.json",
    log:
        "results/data/{dataset}/logs/render.log",
    benchmark:
        "results/data/{dataset}/logs/render.tsv"
    conda:
        env("video")
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
        " --out {params.folder:q} --jobs {threads} {params.settings} 2> {log:q}"


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
        env("base")
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("annotate"),
        code=code("annotate"),
        source=content("annotation_source"),
        content=content("annotation_content"),
    shell:
        "TAD_CODE={params.code:q} tad annotate {params.source:q} --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule probe:
    input:
        # The annotations are not an input: a video that is added with its annotations changes the manifest of its shard only.
        need("rendered"),
    output:
        "results/videos/{dataset}/{shard}.json",
    log:
        "results/videos/{dataset}/logs/{shard}.probe.log",
    benchmark:
        "results/videos/{dataset}/logs/{shard}.probe.tsv"
    conda:
        env("video")
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        spec=spec("probe"),
        code=code("probe"),
        videos=content("video_folder"),
        content=content("video_content"),
    shell:
        "TAD_CODE={params.code:q} tad probe {params.videos:q} --shard {wildcards.shard:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule check:
    input:
        annotations="results/annotations/{dataset}.json",
        manifests=need("manifests"),
    output:
        "results/annotations/{dataset}.checked.json",
    log:
        "results/annotations/logs/{dataset}.check.log",
    benchmark:
        "results/annotations/logs/{dataset}.check.tsv"
    conda:
        env("base")
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec("check"),
        code=code("check"),
        videos=content("video_folder"),
    shell:
        "TAD_CODE={params.code:q} tad check {input.annotations:q} --manifests {input.manifests:q} --videos {params.videos:q}"
        " --spec {params.spec:q}"
        " --out {output:q} 2> {log:q}"
