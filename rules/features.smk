# Videos → features, for each shard; shards → one index. Published features → an index. Several indices → one index.
# Frames → features, by the adapted encoder of a run.
rule pretrain:
    input:
        annotations="results/annotations/{dataset}.checked.json",
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
        env("video")
    threads: threads_of("pretrain")
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("pretrain"),
        code=code("pretrain"),
        videos=content("video_folder"),
    shell:
        "TAD_CODE={params.code:q} tad pretrain {input.annotations:q} --manifests {input.manifests:q} --videos {params.videos:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule extract:
    input:
        # Annotated times that do not fit the videos stop the workflow here, before hours of extraction. The features do
        # not depend on the annotations.
        checked=ancient("results/annotations/{dataset}.checked.json"),
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
        env("video")
    threads: share_of_cores
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("extract"),
        code=code("extract"),
        videos=content("video_folder"),
        weights=content("weights"),
        weights_content=content("weights_content"),
    shell:
        "TAD_CODE={params.code:q} tad extract {input.manifest:q} --annotations {input.checked:q} --videos {params.videos:q}"
        " --weights {params.weights:q}"
        " --spec {params.spec:q} --threads {threads} --out {output:q} 2> {log:q}"


rule merge:
    input:
        checked="results/annotations/{dataset}.checked.json",
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
        env("base")
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        spec=spec("merge"),
        code=code("merge"),
    shell:
        "TAD_CODE={params.code:q} tad merge {input.shards:q} --manifests {input.manifests:q} --annotations {input.checked:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule index:
    input:
        checked="results/annotations/{dataset}.checked.json",
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
        env("video")
    threads: cores
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        spec=spec("index"),
        code=code("index"),
        videos=content("video_folder"),
    shell:
        "TAD_CODE={params.code:q} tad index {input.manifests:q} --annotations {input.checked:q} --videos {params.videos:q}"
        " --spec {params.spec:q} --threads {threads}"
        " --out {output:q} 2> {log:q}"


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
        env("torch")
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        spec=spec("convert"),
        code=code("convert"),
        source=content("feature_source"),
        content=content("feature_content"),
    shell:
        "TAD_CODE={params.code:q} tad convert {params.source:q} --annotations {input.annotations:q} --spec {params.spec:q}"
        " --out {output:q} 2> {log:q}"


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
        env("base")
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        spec=spec("join"),
        code=code("join"),
    shell:
        "TAD_CODE={params.code:q} tad join {input:q} --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule encode:
    input:
        frames=need("encoding_frames"),
        model=need("encoding_model"),
        encoder=need("encoding_weights"),
    output:
        "results/features/{dataset}/{features}.h5",
    log:
        "results/features/{dataset}/{features}/logs/encode.log",
    benchmark:
        "results/features/{dataset}/{features}/logs/encode.tsv"
    wildcard_constraints:
        features=flow.pattern("encoded"),
    conda:
        env("video")
    threads: min(cores, 8) if flow.gpus else 1
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("encode"),
        code=code("encode"),
        encoder=content("encoding_weights"),
    shell:
        "TAD_CODE={params.code:q} tad encode {input.frames:q} --model {input.model:q} --encoder {params.encoder:q}"
        " --spec {params.spec:q} --threads {threads} --out {output:q} 2> {log:q}"
