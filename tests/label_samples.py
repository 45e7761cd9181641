"""Small files of annotation tools, in the layouts that the tools write; made for the tests."""

from typing import Any

SWINGS = [("tennis26", 2.0, 4.0, "tennis swing"), ("tennis26", 4.8, 7.0, "tennis swing")]
TWO = [*SWINGS, ("highjump", 8.86, 15.01, "jump")]
FRAMES = [("tennis26", 60, 120, "tennis swing")]

EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T10:00:00+01:00" FORMAT="3.0" VERSION="3.0">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
<MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/clips/tennis26.mp4" RELATIVE_MEDIA_URL="./tennis26.mp4" {origin}/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="{first}"/><TIME_SLOT TIME_SLOT_ID="ts2" {second}/>
<TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="6000"/></TIME_ORDER>
<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{tier}">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER></ANNOTATION_DOCUMENT>"""


def eaf(
    first: int = 2000,
    second: str = 'TIME_VALUE="4000"',
    origin: str = "",
    tier: str = "t",
    value: str = "tennis swing",
) -> str:
    return EAF.format(first=first, second=second, origin=origin, tier=tier, value=value)


TAB_HEADER = (
    "Tier\tBegin Time - hh:mm:ss.ms\tBegin Time - ss.msec\tEnd Time - hh:mm:ss.ms\tEnd Time - ss.msec\t"
    "action\tFile Name\n"
    "action\t00:00:02.000\t2.0\t00:00:04.000\t4.0\ttennis swing\ttennis26.eaf\n"
    "action\t00:00:04.800\t4.8\t00:00:07.000\t7.0\ttennis swing\ttennis26.eaf\n"
)
TAB_PLAIN = (
    '"#file:///C:/clips/tennis26.eaf"\n'
    "action\t\t00:00:02.000\t2.0\t00:00:04.000\t4.0\t00:00:02.000\t2.0\ttennis swing\n"
    "action\t\t00:00:04.800\t4.8\t00:00:07.000\t7.0\t00:00:02.200\t2.2\ttennis swing\n"
)
VIA = {
    "project": {"vid_list": ["1", "2"]},
    "attribute": {"1": {"aname": "ACTION", "type": 4, "options": {"s": "tennis swing", "j": "jump"}}},
    "file": {"1": {"fid": "1", "fname": "tennis26.mp4"}, "2": {"fid": "2", "fname": "C:\\clips\\highjump.mp4"}},
    "metadata": {
        "1_A": {"vid": "1", "z": [2.0, 4.0], "xy": [], "av": {"1": "s"}},
        "1_B": {"vid": "1", "z": [4.8, 7.0], "xy": [], "av": {"1": "s"}},
        "2_C": {"vid": "2", "z": [8.86, 15.01], "xy": [], "av": {"1": "j"}},
        "2_D": {"vid": "2", "z": [3.0], "xy": [2, 1, 1, 5, 5], "av": {}},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
}
VIA_CSV = (
    "# Exported using VGG Image Annotator (http://www.robots.ox.ac.uk/~vgg/software/via)\n"
    "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata\n"
    '"1_A","[""tennis26.mp4""]",0,"[2,4]","[]","{""ACTION"":""tennis swing""}"\n'
    '"1_B","[""tennis26.mp4""]",0,"[4.8,7]","[]","{""ACTION"":""tennis swing""}"\n'
)
RESULT = {
    "value": {"ranges": [{"start": 60, "end": 120}], "timelinelabels": ["tennis swing"]},
    "type": "timelinelabels",
}
STUDIO: list[dict[str, Any]] = [
    {
        "id": 1,
        "annotations": [
            {"id": 2, "was_cancelled": False, "result": [RESULT]},
            {"was_cancelled": True, "result": [RESULT]},
        ],
        "file_upload": "ab12cd34-tennis26.mp4",
        "data": {"video": "/data/upload/1/ab12cd34-tennis26.mp4"},
    }
]
STUDIO_MIN = [{"video": "/data/upload/1/ab12cd34-tennis26.mp4", "id": 1, "x": [RESULT["value"]], "annotator": 1}]
STUDIO_MIN[0]["annotation_id"] = 3
CVAT = """<annotations><version>1.1</version>
<meta><task><id>7</id><name>t</name><source>tennis26.mp4</source></task></meta>
<track id="0" label="tennis swing">
<box frame="60" outside="0"/><box frame="90" outside="0"/><box frame="120" outside="1"/></track>
<track id="1" label="jump"><box frame="10" outside="0"/><box frame="19" outside="0"/></track></annotations>"""
SOCCER = {"UrlLocal": "", "annotations": [{"gameTime": "2 - 00:09", "label": "Goal", "position": "9000"}]}
BORIS_HEAD = "Observation id,Source,Media duration (s),FPS,Subject,Behavior,Behavior type,Time,Media file name"
BORIS = "\n".join(
    [BORIS_HEAD, *(f"o,player #1:clips/a.mp4;b.mp4,10.0;20.0,25;25,{s},{b},{k},{t},x" for s, b, k, t in (
        ("", "walk", "START", 2), ("Ann", "walk", "START", 3), ("", "walk", "STOP", 4), ("Ann", "walk", "STOP", 5),
        ("", "run", "START", 12), ("", "run", "STOP", 15),
    ))]
)  # fmt: skip
WALKS = [("a", 2.0, 4.0, "walk"), ("a", 3.0, 5.0, "walk"), ("b", 2.0, 5.0, "run")]
FIFTYONE = {"classes": ["tennis swing", "jump"], "labels": {"tennis26": [{"label": 0, "timestamps": [2.0, 4.0]}]}}
SUPPORT = {"classes": ["tennis swing"], "labels": {"tennis26": [{"label": "tennis swing", "support": [61, 120]}]}}
ACTIVITYNET = {"database": {"tennis26": {"annotations": [{"segment": [2, 4], "label": "tennis swing"}]}}}
EPIC = (
    "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,start_frame,narration,verb,noun\n"
    "P01_0,P01,P01_01,00:00:02.00,00:00:04.00,120,open door,open,door\n"
)
SRT = "1\n00:00:02,000 --> 00:00:04,000\ntennis swing\n\n2\n00:00:04,800 --> 00:00:07,000\ntennis swing\n"
VTT = "WEBVTT\n\nNOTE made by hand\n\nc1\n00:02.000 --> 00:04.000 line:0\n<v Ann>tennis swing</v>\n\n"
VTT += "00:00:04.800 --> 00:00:07.000\ntennis\nswing\n"

SAMPLES: list[tuple[str, str, Any, list[Any]]] = [
    ("srt", "tennis26.srt", SRT, SWINGS),
    ("vtt", "tennis26.vtt", VTT, SWINGS),
    ("audacity", "tennis26.txt", "2.000000\t4.0\ttennis swing\n\\\t100\t200\n4,8\t7\ttennis swing\n", SWINGS),
    ("elan", "x.eaf", eaf(), SWINGS[:1]),
    ("elan", "x.eaf", eaf(second="", tier="tennis swing", value=""), SWINGS[:1]),
    ("elan", "x.eaf", eaf(first=1500, second='TIME_VALUE="3500"', origin='TIME_ORIGIN="500"'), SWINGS[:1]),
    ("elan_tab", "x.txt", TAB_HEADER, SWINGS),
    ("elan_tab", "x.txt", TAB_PLAIN, SWINGS),
    ("via", "x.json", VIA, TWO),
    ("via_csv", "x.csv", VIA_CSV, SWINGS),
    ("label_studio", "x.json", STUDIO, FRAMES),
    ("label_studio", "x.json", STUDIO_MIN, FRAMES),
    ("label_studio", "x.json", [STUDIO[0] | {"data": STUDIO[0]["data"] | {"fps": 30}}], SWINGS[:1]),
    ("cvat", "x.xml", CVAT, [*FRAMES, ("tennis26", 10, 20, "jump")]),
    ("soccernet", "Labels-v2.json", SOCCER, [("2", 9.0, 9.0, "Goal")]),
    ("boris_table", "x.csv", BORIS, WALKS),
    ("boris_table", "x.tsv", BORIS.replace(",", "\t"), WALKS),
    ("fiftyone", "labels.json", FIFTYONE, SWINGS[:1]),
    ("fiftyone", "labels.json", SUPPORT, FRAMES),
    ("epic", "x.csv", EPIC, [("P01_01", 2.0, 4.0, "open")]),
    ("csv", "x.tsv", "Filename\tbegin\tend\taction\ntennis26.mp4\t2\t4\ttennis swing\n", SWINGS[:1]),
    ("thumos_text", "tennis swing_val.txt", "tennis26 2.0 4.0\ntennis26 4.8 7.0\n", SWINGS),
    ("activitynet", "x.json", ACTIVITYNET, SWINGS[:1]),
]  # fmt: skip
