# Features → detector → candidates → detections, run by run.
rule train:
    input:
        features=learned_from("features_of"),
        annotations=learned_from("annotations_of"),
        teachers=learned_from("teachers"),
        teacher_features=learned_from("teacher_features"),
        start=learned_from("start_weights"),
    output:
        "results/{run}/model.safetensors",
    log:
        "results/{run}/logs/train.log",
    benchmark:
        "results/{run}/logs/train.tsv"
    conda:
        "../envs/video.yaml"
    threads: cores
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=flow.gpus,
    params:
        spec=spec("train"),
        code=code("train"),
        labels=content("labels_content"),
        start=content("start_content"),
    shell:
        "tad train {input.features} --annotations {input.annotations}"
        " --teachers {input.teachers} --teacher-features {input.teacher_features} --start {input.start} --spec {params.spec:q}"
        " --devices {resources.gpu} --threads {threads} --out {output} 2> {log}"


rule detect:
    input:
        features=need("features_of"),
        annotations=need("annotations_of"),
        model="results/{run}/model.safetensors",
        fused_model=need("fused_models"),
        fused_features=need("fused_features"),
    output:
        "results/{run}/candidates.h5",
    log:
        "results/{run}/logs/detect.log",
    benchmark:
        "results/{run}/logs/detect.tsv"
    conda:
        "../envs/video.yaml"
    threads: cores
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=flow.gpus,
    params:
        spec=spec("detect"),
        code=code("detect"),
    shell:
        "tad detect {input.features} --model {input.model} --annotations {input.annotations}"
        " --fused-model {input.fused_model} --fused-features {input.fused_features}"
        " --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"


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
        "../envs/torch.yaml"
    threads: cores
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=flow.gpus,
    params:
        spec=spec("classify"),
        code=code("classify"),
    shell:
        "tad classify {input.features} --annotations {input.annotations}"
        " --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"


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
        "../envs/torch.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
        gpu=flow.gpus,
    params:
        spec=spec("suppress"),
        code=code("suppress"),
        content=content("video_scores_content"),
    shell:
        "tad suppress {input.candidates} --scores {input.scores}"
        " --spec {params.spec:q} --threads {threads} --out {output} 2> {log}"
