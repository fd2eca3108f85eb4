"""The stages: what each is for, and the class of its config."""

from __future__ import annotations

from rrad_ray import config

STAGES: dict[str, tuple[type, str]] = {
    "collect": (config.CollectConfig, "collect the queries that are new since the last night"),
    "retrieve": (
        config.RetrieveConfig,
        "find candidates of every query: BM25 and a bi-encoder, or your own runs",
    ),
    "prerank": (config.PrerankConfig, "order the candidates by a cheap ranker; keep the top-k and the bottom-k"),
    "judge": (config.JudgeConfig, "have an LLM label them: Ray Data x vLLM"),
    "label": (config.LabelConfig, "turn the LLM's answers into training targets"),
    "qrels": (config.QrelsConfig, "let another model's grades stand as qrels where people have judged too little"),
    "export": (
        config.ExportConfig,
        "write labels for other trainers, or a student for other engines: ONNX, OpenVINO",
    ),
    "finetune": (config.FinetuneConfig, "fine-tune a causal LM: DisRanker's pre-training, or a listwise labeller"),
    "train": (config.TrainConfig, "distil a student under Ray Train"),
    "evaluate": (config.EvaluateConfig, "measure every ranker on the same queries, side by side; report.html"),
    "select": (config.SelectConfig, "choose the best student inside the latency budget, or the first stage above it"),
    "publish": (config.PublishConfig, "put a night's student in the winner's place, if it is better; history.html"),
    "serve": (config.ServeConfig, "serve the winner behind Ray Serve: POST /rerank"),
    "experiment": (config.ExperimentConfig, "read an online test from its exposures and clicks; report.html"),
}
