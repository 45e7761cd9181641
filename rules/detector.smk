# Features → detector → candidates → detections, for each run.
rule train:
    input:
        features=learned_from("features_of"),
        annotations=learned_from("annotations_of"),
        teachers=learned_from("teachers"),
        teacher_features=learned_from("teacher_features"),
        start=learned_from("start_weights"),
        encoder=learned_from("encoder_weights"),
    output:
        "results/{run}/model.safetensors",
    log:
        "results/{run}/logs/train.log",
    benchmark:
        "results/{run}/logs/train.tsv"
    conda:
        env("video")
    threads: threads_of("train")
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("train"),
        code=code("train"),
        labels=content("labels_content"),
        start=content("start_weights"),
        start_content=content("start_content"),
        encoder=content("encoder_weights"),
        encoder_content=content("encoder_content"),
    shell:
        "TAD_CODE={params.code:q} tad train {input.features:q} --annotations {input.annotations:q}"
        " --teachers {input.teachers:q} --teacher-features {input.teacher_features:q} --start {params.start:q}"
        " --encoder {params.encoder:q}"
        " --spec {params.spec:q}"
        " --devices {resources.gpu} --out {output:q} 2> {log:q}"


rule detect:
    input:
        features=need("features_of"),
        annotations=need("annotations_of"),
        model="results/{run}/model.safetensors",
        fused_model=need("fused_models"),
        fused_features=need("fused_features"),
        encoder=need("encoder_weights"),
    output:
        "results/{run}/candidates.h5",
    log:
        "results/{run}/logs/detect.log",
    benchmark:
        "results/{run}/logs/detect.tsv"
    conda:
        env("video")
    threads: threads_of("detect")
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=flow.gpus,
    params:
        spec=spec("detect"),
        code=code("detect"),
        encoder=content("encoder_weights"),
    shell:
        "TAD_CODE={params.code:q} tad detect {input.features:q} --model {input.model:q} --annotations {input.annotations:q}"
        " --fused-model {input.fused_model:q} --fused-features {input.fused_features:q}"
        " --encoder {params.encoder:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule classify:
    input:
        features=need("features_of"),
        annotations=need("annotations_of"),
    output:
        "results/{run}/video_scores.json",
    log:
        "results/{run}/logs/classify.log",
    benchmark:
        "results/{run}/logs/classify.tsv"
    conda:
        env("torch")
    threads: threads_of("classify")
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=flow.gpus,
    params:
        spec=spec("classify"),
        code=code("classify"),
    shell:
        "TAD_CODE={params.code:q} tad classify {input.features:q} --annotations {input.annotations:q}"
        " --spec {params.spec:q} --out {output:q} 2> {log:q}"


rule suppress:
    input:
        candidates="results/{run}/candidates.h5",
        scores=need("video_scores"),
    output:
        "results/{run}/detections.json",
    log:
        "results/{run}/logs/suppress.log",
    benchmark:
        "results/{run}/logs/suppress.tsv"
    conda:
        env("torch")
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=flow.gpus,
    params:
        spec=spec("suppress"),
        code=code("suppress"),
        scores=content("video_scores"),
        content=content("video_scores_content"),
    shell:
        "TAD_CODE={params.code:q} tad suppress {input.candidates:q} --scores {params.scores:q}"
        " --spec {params.spec:q} --threads {threads} --out {output:q} 2> {log:q}"
