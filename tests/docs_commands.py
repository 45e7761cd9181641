"""How each command in README.md and docs is executed, or why it is not. Keys are commands, or patterns of them."""

# Runs and data sets of the pages' examples, which the user makes.
EXAMPLES = {"mine", "kitchen", "verbs", "nouns", "own", "lines", "toyclips"}
# Targets of a stage that docs/extending.md adds.
OTHER_TARGETS = {"results/tallies/demo.json"}

# Executed by test_docs_commands.py: in the checkout (these only read), in a folder with videos and labels, in an empty
# folder, or in one with the shared real data.
EXECUTED = {
    "tad zoo thumos14": "checkout",
    "tad zoo --format json": "checkout",
    "tad zoo": "checkout",
    "tad show demo": "checkout",
    "tad show thumos-i3d-mse": "checkout",
    "tad weights list": "checkout",
    "tad schema --out config.schema.json": "empty",
    "tad new kitchen --videos videos --labels labels.csv": "project",
    "tad new kitchen --videos clips --labels labels.xlsx": "project",
    "tad new mine --videos videos --labels labels.xlsx": "project",
    "tad evaluate detections.json --annotations thumos14.json --protocol thumos14-212 --out map.json": "shared",
}
# Names in the folder of "shared" commands, and the files below the shared folder that they stand for.
SHARED = {
    "detections.json": "data/detections/actionformer_thumos14_test_detections.json",
    "thumos14.json": "data/annotations/thumos14.json",
}

# Commands on components that a section of docs/extending.md adds, and the test that follows the section.
OF_EXTENSIONS = {
    "tad tally --help": "tests/test_extending.py::test_a_stage",
    "tad why results/tallies/demo.json": "tests/test_extending.py::test_a_stage",
    "snakemake --cores 1 results/tallies/demo.json": "tests/test_extending.py::test_a_stage",
    "snakemake --cores 1 results/annotations/lines.json": "tests/test_extending.py::test_an_annotation_format",
    "snakemake --cores 2 results/features/own/toyclips.h5": "tests/test_extending.py::test_a_backbone",
    "tad weights fetch toy": "tests/test_weight_fetch.py::test_the_commands",
    "snakemake --cores 2 results/mine/map.json": "tests/test_extending.py::test_a_detector",
    "tad show mine": "tests/test_extending.py::test_a_detector",
    "pytest tests -k toy": "tests/test_extending.py::test_a_detector",
}

WHEEL = "tests/test_run_anywhere.py::test_the_wheel_runs_the_first_stages_of_the_demo_elsewhere"
# The same work is executed by another test, by the command or the function that it calls, with files of that test.
EXECUTED_ELSEWHERE = {
    "tad apply * --out detections.json": "tests/test_apply.py::test_a_real_video_goes_from_mp4_to_detections",
    "tad apply * --to csv,page --out detections": "tests/test_apply_outputs.py::test_several_formats_are_one_folder",
    "tad apply * --to page --out drafts": "tests/test_apply_outputs.py::"
    "test_the_page_of_drafts_saves_what_was_accepted",
    "tad apply * --to csv,srt,vtt,*": "tests/test_apply_outputs.py::test_several_formats_are_one_folder",
    "tad new kitchen --videos clips --labels eaf": "tests/test_label_formats.py::test_a_sample_is_recognised_and_read",
    "tad stream demo-causal --choose --on train": "tests/test_stream.py::"
    "test_the_score_is_chosen_on_other_videos_than_the_test_videos",
    "tad stream demo-causal my_video.mp4": "tests/test_stream.py::test_a_file_gives_what_its_stored_features_give",
    "ffmpeg -i rtsp://*": "tests/test_stream.py::test_standard_input",
    "tad export demo --out demo-run": "tests/test_apply.py::test_a_released_run_is_applied_elsewhere",
    "tad next demo more_videos --out next": "tests/test_next.py::test_rankings_and_drafts_are_written",
    "tad apply * --precision 0.9": "tests/test_apply_outputs.py::test_thresholds_say_where_they_come_from",
    "tad run": WHEEL,
    "tad run -[nv]": "tests/test_terminal.py::test_own_output_of_snakemake",
    "tad run mine": WHEEL,
    "tad run kitchen": WHEEL,
    "tad run --*": "tests/test_run_anywhere.py::test_words_for_snakemake",
    "tad run results/*/page": "tests/test_page_rule.py::test_a_page_has_all_seeds_and_the_runs_beside",
    "snakemake --cores 2 results/demo/page": "tests/test_page_rule.py::test_a_page_has_all_seeds_and_the_runs_beside",
    "tad evaluate predictions.jsonl *": "tests/test_grounding.py::test_files_of_the_published_layout",
    "tad evaluate results/verbs/*": "tests/test_epic_actions.py::test_two_runs_give_actions_verbs_and_nouns",
    "tad diagnose *": "tests/test_diagnosis.py::test_one_command_diagnoses_anybodys_detections",
    "tad features show *": "tests/test_features_show.py::"
    "test_the_command_prints_all_and_fails_where_something_is_wrong",
    "tad weights list *": "tests/test_weight_fetch.py::test_the_commands",
    "tad weights verify": "tests/test_weight_fetch.py::test_the_commands",
    "tad verify": "tests/test_checksums.py::test_verify_walks_everything_and_says_how_to_make_it_again",
    "tad doctor": "tests/test_doctor.py::test_everything_is_looked_at",
    "tad schema": "tests/test_docs_commands.py::test_a_cheap_command_runs",
    "tad table*": "tests/test_table.py::test_the_command",
    "tad sweep *": "tests/test_sweep.py::test_scores_are_those_of_suppress_and_evaluate",
    "tad why *": "tests/workflow/test_reruns.py::test_why_says_it_in_words",
    "tad compare *": "tests/workflow/test_from_features.py::test_two_runs_of_two_seeds_and_their_comparison",
    'eval "$(tad completion bash)"': "tests/test_why_completion.py::test_shells_complete_runs",
    "snakemake -[np]": "tests/workflow/test_reruns.py::test_second_run_has_nothing_to_do",
    ".venv/bin/tad import-checkpoint *": "tests/workflow/test_from_features.py::"
    "test_a_published_checkpoint_goes_through_the_workflow",
    "ffmpeg -i a.mp4 *": "tests/test_apply_outputs.py::test_chapters_are_read_by_ffmpeg",
    "make readme-table": "tests/test_readme_table.py::test_what_is_kept_makes_the_same_table",
}

# Not executed by a test, with the reason. Options, targets and names of these are checked all the same.
NOT_EXECUTED = {
    "make demo": "takes minutes; CI runs it before the tests",
    "make test": "runs the tests themselves",
    "make bench-gpu": "needs a GPU; test_benchmarks runs its script on a CPU",
    "make test-faults*": "takes 18 minutes of faults; its own command",
    "make test-wide": "runs the tests themselves",
    "python tests/planted_faults.py*": "runs the test suite once per planted fault, for hours",
    "python tests/faults/run.py *": "a fault campaign of minutes",
    "source .venv/bin/activate": "changes the shell that calls it",
    "git clone *": "needs the address of the repository",
    "cd tad": "goes into the clone",
    "pip install*": "downloads packages; docs name them and requirements-dev.txt pins what tests need",
    "tad weights fetch i3d": "downloads weights of 50 MB; test_weight_fetch.py does it with a local server",
    "*snakemake *results/thumos*": "needs the videos or published features of THUMOS14",
    "*snakemake *results/features/thumos14_published/*": "needs the published features of THUMOS14",
    "snakemake -n results/epic-verb/map.json": "needs the annotations of EPIC-KITCHENS-100",
    "snakemake --cores 8 results/salads-gaf/map.json *": "needs the features of 50Salads, and hours",
    "snakemake --cores 2 results/study-adapters/map.json *": "trains six networks on frames, for an hour",
    "snakemake --report *": "needs a finished demo; the report is Snakemake's own",
    "snakemake --touch": "names an option of Snakemake, without a target",
    "tad apply * --every 5s": "waits until a file has not grown for a minute",
}
