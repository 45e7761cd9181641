# Videos → features, shard by shard; the shards → one index. Published features → such an index. Indices → one of both.
rule pretrain:
    input:
        annotations="results/annotations/{dataset}.json",
        manifests=need("manifests"),
    output:
        "results/features/{dataset}/{features}/backbone.safetensors",
    log:
        "results/features/{dataset}/{features}/logs/pretrain.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/pretrain.tsv"
    wildcard_constraints:
        features=flow.pattern("extracted"),
    conda:
        "../envs/video.yaml"
    threads: cores
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("pretrain"),
        code=code("pretrain"),
        videos=content("video_folder"),
    shell:
        "tad pretrain {input.annotations} --manifests {input.manifests} --videos {params.videos:q}"
        " --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"


rule extract:
    input:
        manifest="results/videos/{dataset}/{shard}.json",
        weights=need("weights"),
    output:
        "results/features/{dataset}/{features}/{shard}.h5",
    log:
        "results/features/{dataset}/{features}/logs/{shard}.extract.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/{shard}.extract.tsv"
    wildcard_constraints:
        features=flow.pattern("extracted"),
    conda:
        "../envs/video.yaml"
    threads: min(cores, 8) if flow.gpus else 1
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("extract"),
        code=code("extract"),
        videos=content("video_folder"),
        weights=content("weights_content"),
    shell:
        "tad extract {input.manifest} --videos {params.videos:q} --weights {input.weights:q}"
        " --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"


rule merge:
    input:
        shards=need("shards"),
        manifests=need("manifests"),
    output:
        "results/features/{dataset}/{features}.h5",
    log:
        "results/features/{dataset}/{features}/logs/merge.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/merge.tsv"
    wildcard_constraints:
        features=flow.pattern("extracted"),
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        spec=spec("merge"),
        code=code("merge"),
    shell:
        "tad merge {input.shards} --manifests {input.manifests} --spec {params.spec:q} --out {output} 2> {log}"


rule index:
    input:
        manifests=need("manifests"),
    output:
        "results/features/{dataset}/{features}.h5",
    log:
        "results/features/{dataset}/{features}/logs/index.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/index.tsv"
    wildcard_constraints:
        features=flow.pattern("framed"),
    conda:
        "../envs/video.yaml"
    threads: cores
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        spec=spec("index"),
        code=code("index"),
        videos=content("video_folder"),
    shell:
        "tad index {input.manifests} --videos {params.videos:q} --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"


rule convert:
    input:
        annotations="results/annotations/{dataset}.json",
    output:
        "results/features/{dataset}/{features}.h5",
    log:
        "results/features/{dataset}/{features}/logs/convert.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/convert.tsv"
    wildcard_constraints:
        features=flow.pattern("imported"),
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        spec=spec("convert"),
        code=code("convert"),
        source=content("feature_source"),
        content=content("feature_content"),
    shell:
        "tad convert {params.source:q} --annotations {input.annotations} --spec {params.spec:q} --out {output} 2> {log}"


rule join:
    input:
        need("joined_parts"),
    output:
        "results/features/{dataset}/{features}.h5",
    log:
        "results/features/{dataset}/{features}/logs/join.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/join.tsv"
    wildcard_constraints:
        features=flow.pattern("joined"),
    conda:
        "../envs/base.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        spec=spec("join"),
        code=code("join"),
    shell:
        "tad join {input} --spec {params.spec:q} --out {output} 2> {log}"
