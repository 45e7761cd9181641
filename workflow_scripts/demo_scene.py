"""Generate the content of a demo video from a seed: actions, motion of the figure, appearance, camera and pictures.

A figure drawn with thick lines performs 3 to 8 instances of five actions between idle motion. Two channels move: the
angle of the arms and the depth of the knees. While idle, both drift slowly through their full range, with a quick
partial gesture now and then. An action moves one channel while the other continues to drift. All actions and the idle
motion therefore pass through the same poses, and only the motion determines the class:

    circle_outward  the arm circles upwards on its outer side     circle_inward  the same circle, the other way round
    wave            the arm swings to and fro about any angle
    drop_squat      quickly down, slowly up                       spring_squat   slowly down, quickly up

A mirrored picture keeps its label. Train and test videos come from the same generator and differ in their seeds only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numba import njit

# F: frames, S: shapes (x0, y0, x1, y1, radius, red, green, blue), H and W: height and width of a picture

LABELS = ("circle_inward", "circle_outward", "drop_squat", "spring_squat", "wave")
WIDTH, HEIGHT, MARGIN = 320, 180, 28
RATE, NTSC, TICK = Fraction(25), Fraction(30000, 1001), Fraction(1, 90000)
VERSION = 1  # increased with every change of the pictures
Track = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Scene:
    """The content of one video. `segments` are [start, end, label] in seconds, on frame times."""

    trait: str
    times_F: np.ndarray
    pts_F: np.ndarray
    time_base: Fraction
    duration: float
    segments: list[tuple[float, float, str]]
    pose_F3: np.ndarray  # left and right arm angle (radians, 0 is down, grows outwards and up), depth of knees (0..1)
    canvas_HW3: np.ndarray
    camera_F2: np.ndarray
    gain_F: np.ndarray
    shapes_FS8: np.ndarray


def subset_size(videos: int) -> int:
    """Return how many of `videos` are for training: the first two thirds."""
    return math.ceil(2 * videos / 3)


def trait_of(index: int, videos: int) -> str:
    """Return the container's special property: three train videos and one test video have one, the rest are plain."""
    train = subset_size(videos)
    if index == train:
        return "vfr"
    return {1: "rotated", 2: "ntsc", 3: "audio"}.get(index, "plain") if index < train else "plain"


def frame_times(rng: np.random.Generator, trait: str, seconds: float) -> tuple[np.ndarray, Fraction]:
    """Return the presentation times of all frames and of the end, as (F + 1,) integers, and their unit in seconds."""
    if trait != "vfr":
        rate = NTSC if trait == "ntsc" else RATE
        return np.arange(round(seconds * rate) + 1), 1 / rate
    steps: list[int] = []
    while sum(steps) * TICK < seconds:  # the frame rate changes every few seconds, and frames are dropped
        step = round(1 / (TICK * int(rng.choice([15, 25, 30]))))
        drops = rng.random(int(rng.integers(60, 160))) < 0.1
        steps += [step * (1 + int(drop)) for drop in drops]
    steps.append(round(1 / (TICK * RATE)))  # the duration that the muxer gives to the last frame
    return np.concatenate([[0], np.cumsum(steps)]), TICK


def draw_script(rng: np.random.Generator, edges: np.ndarray) -> list[tuple[int, int, str]]:
    """Draw the first frame, the last frame but one and the label of each instance, at least a second apart."""
    seconds = edges[-1]
    lengths = np.clip(np.exp(rng.normal(math.log(3.5), 0.5, int(rng.integers(3, 9)))), 1.1, 9.9)
    while lengths.sum() + 1.3 * (len(lengths) + 1) > 0.7 * seconds:
        lengths = np.delete(lengths, int(lengths.argmax()))
    labels = rng.permutation(np.repeat(LABELS, 2))[: len(lengths)]
    slack = seconds - lengths.sum() - 1.3 * (len(lengths) + 1)
    gaps = 1.3 + slack * rng.dirichlet(np.full(len(lengths) + 1, 2.0))
    starts = np.cumsum(gaps)[:-1] + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    first, last = np.searchsorted(edges, starts), np.searchsorted(edges, starts + lengths)
    return [(int(a), int(b), str(label)) for a, b, label in zip(first, last, labels, strict=True)]


def ease(knots: list[tuple[float, float]], local: np.ndarray) -> np.ndarray:
    """Interpolate smoothly between (time, value) knots at times `local`."""
    times, values = np.array(knots).T
    k = np.clip(np.searchsorted(times, local, "right") - 1, 0, len(times) - 2)
    u = np.clip((local - times[k]) / (times[k + 1] - times[k]), 0.0, 1.0)
    return np.asarray(values[k] + (values[k + 1] - values[k]) * u * u * (3 - 2 * u))


def idle(arm: bool) -> Track:
    """Draw idle motion: rest, slow moves to a random pose, and now and then a quick move that is no action."""

    def track(rng: np.random.Generator, local: np.ndarray, value: float) -> np.ndarray:
        knots = [(0.0, value)]
        while knots[-1][0] <= local[-1]:
            time, value = knots[-1]
            quick = rng.random() < 0.12
            start = time + rng.uniform(0.2, 1.6)
            if arm:
                turn = rng.choice([-1.0, 1.0]) * math.radians(rng.uniform(60, 110) if quick else rng.uniform(10, 75))
                target, move = value + turn, rng.uniform(0.3, 0.5) if quick else rng.uniform(0.9, 2.2)
            else:
                target, move = rng.uniform(0, 1), rng.uniform(0.3, 0.5) if quick else rng.uniform(1.2, 3.0)
            knots += [(start, value), (start + move, target)]
        return ease(knots, local)

    return track


def circle(direction: float, period: float) -> Track:
    """Draw a circle of the arm at an uneven speed."""

    def track(rng: np.random.Generator, local: np.ndarray, value: float) -> np.ndarray:
        wobble, phase = rng.uniform(0.0, 0.12), rng.uniform(0, 2 * math.pi)
        turns = local / period
        uneven = wobble * (np.sin(2 * math.pi * 0.7 * turns + phase) - math.sin(phase)) / 0.7
        return np.asarray(value + direction * (2 * math.pi * turns + uneven * 2))

    return track


def wave(amplitude: float, period: float) -> Track:
    """Swing the arm to and fro about its current angle."""

    def track(rng: np.random.Generator, local: np.ndarray, value: float) -> np.ndarray:
        side = rng.choice([-1.0, 1.0])
        return np.asarray(value + side * amplitude * np.sin(2 * math.pi * local / period))

    return track


def squat(quick_down: bool, quick: float, slow: float) -> Track:
    """Bend and stretch the knees, one way quickly and the other way slowly."""

    def track(rng: np.random.Generator, local: np.ndarray, value: float) -> np.ndarray:
        knots, down = [(0.0, value)], value < 0.5
        while knots[-1][0] <= local[-1]:
            time, value = knots[-1]
            target = rng.uniform(0.85, 1.0) if down else rng.uniform(0.0, 0.15)
            share = max(0.4, abs(target - value) / 0.85) * rng.uniform(0.9, 1.1)
            knots.append((time + (quick if down == quick_down else slow) * share, target))
            down = not down
        return ease(knots, local)

    return track


def plan(rng: np.random.Generator, label: str) -> dict[int, Track]:
    """Choose the channels (0 and 1: arms, 2: knees) that an instance of `label` moves, and their motion."""
    if label.endswith("squat"):
        return {2: squat(label == "drop_squat", rng.uniform(0.22, 0.34), rng.uniform(0.85, 1.3))}
    period = rng.uniform(0.95, 1.45)
    if label == "wave":
        track = wave(math.radians(rng.uniform(42, 65)), 0.75 * period)
    else:
        track = circle(1.0 if label == "circle_outward" else -1.0, period)
    return dict.fromkeys([(0,), (1,), (0, 1), (0, 1)][int(rng.integers(4))], track)


def draw_pose(rng: np.random.Generator, edges: np.ndarray, script: list[tuple[int, int, str]]) -> np.ndarray:
    """Return (F, 3) arm angles and depth of the knees. Each channel is continuous and idles outside its instances."""
    pose = np.empty((len(edges), 3))
    spans: list[list[tuple[int, int, Track]]] = [[], [], []]
    for first, last, label in script:
        for channel, track in plan(rng, label).items():
            spans[channel].append((first, last, track))
    for channel in range(3):
        value = rng.uniform(0, 2 * math.pi) if channel < 2 else rng.uniform(0, 1)
        cursor = 0
        for first, last, track in [*spans[channel], (len(edges) - 1, len(edges) - 1, idle(channel < 2))]:
            for a, b, move in ((cursor, first, idle(channel < 2)), (first, last, track)):
                pose[a : b + 1, channel] = move(rng, edges[a : b + 1] - edges[a], value)
                value = pose[b, channel]
            cursor = last
    return pose[:-1]


def swing(rng: np.random.Generator, times: np.ndarray, amplitude: float, fastest: float) -> np.ndarray:
    """Draw a slow random motion: three sines with periods between `fastest` and four times that, in seconds."""
    periods, phases = fastest * rng.uniform(1, 4, 3), rng.uniform(0, 2 * math.pi, 3)
    return np.asarray(amplitude / 3 * np.sin(2 * math.pi * times[:, None] / periods + phases).sum(1))


def figure(rng: np.random.Generator, times: np.ndarray, pose: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return (F, 12, 8) capsules of the figure, in pixels relative to the point between its feet."""
    size = rng.uniform(124, 142)
    upper, fore = size * rng.uniform(0.18, 0.2), size * rng.uniform(0.165, 0.185)
    leg, torso = size * rng.uniform(0.235, 0.255), size * rng.uniform(0.28, 0.31)
    bend, narrow, thick = rng.uniform(0.1, 0.5), rng.uniform(0.88, 1.0), size * rng.uniform(0.9, 1.15)
    legs, body, arms = colours
    lean = swing(rng, times, 0.07, 2.5)
    hip = np.stack([swing(rng, times, 0.05 * size, 2.0), -2 * leg * 0.97 + pose[:, 2] * leg * 0.95], -1)
    length = torso * (1 + 0.02 * np.sin(2 * math.pi * times / rng.uniform(3, 5)))
    up = np.stack([np.sin(lean), -np.cos(lean)], -1)
    neck = hip + up * length[:, None]
    parts: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = []
    for side in (-1, 1):
        joint, foot = hip + np.array([side * 0.05 * size, 0.0]), np.broadcast_to([side * 0.1 * size, 0.0], hip.shape)
        half = (foot - joint) / 2
        reach = np.linalg.norm(half, axis=1, keepdims=True)
        out = np.stack([half[:, 1], -half[:, 0]], -1) / reach * side
        knee = joint + half + out * np.sqrt(np.maximum(leg**2 - reach**2, 0.0))
        parts += [(joint, knee, 0.042, legs), (knee, foot, 0.036, legs)]
    head = neck + up * 0.105 * size
    parts += [(hip - up * 4, neck, 0.075, body), (head, head, 0.068, legs)]
    for side, angle in ((-1, pose[:, 0]), (1, pose[:, 1])):
        angle = angle + swing(rng, times, 0.05, 1.5)
        shoulder = neck + np.array([side * 0.1 * size, 0.02 * size])
        elbow = shoulder + upper * np.stack([side * np.sin(angle), np.cos(angle)], -1)
        hand = elbow + fore * np.stack([side * np.sin(angle + bend), np.cos(angle + bend)], -1)
        parts += [(shoulder, elbow, 0.042, arms), (elbow, hand, 0.038, arms), (hand, hand, 0.05, arms)]
    shapes = np.empty((len(times), len(parts), 8))
    for k, (start, end, radius, colour) in enumerate(parts):
        shapes[:, k, :2], shapes[:, k, 2:4] = start * [narrow, 1], end * [narrow, 1]
        shapes[:, k, 4], shapes[:, k, 5:] = radius * thick, colour
    return shapes


def distractors(rng: np.random.Generator, times: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return (F, S, 8) distractors: balls that roll to and fro, boxes that pass by, and a bar that turns."""
    shapes = np.empty((len(times), int(rng.integers(1, 4)), 8))
    for k in range(shapes.shape[1]):
        kind, y = int(rng.integers(3)), rng.uniform(0.35, 0.95) * HEIGHT
        half, radius = np.zeros((len(times), 2)), rng.uniform(5, 12)
        x = np.full(len(times), rng.uniform(20, WIDTH - 20))
        if kind == 0:
            x = x + swing(rng, times, 180.0, 3.0)
        elif kind == 1:
            x = (x + times * rng.choice([-1, 1]) * rng.uniform(25, 90)) % (WIDTH + 160) - 80
            half[:, 0] = rng.uniform(10, 24)
        else:
            angle = times * rng.uniform(1.5, 6) * rng.choice([-1, 1])
            half, radius = rng.uniform(8, 20) * np.stack([np.cos(angle), np.sin(angle)], -1), 2.5
        centre = np.stack([x, np.full(len(times), y)], -1)
        shapes[:, k, :2], shapes[:, k, 2:4], shapes[:, k, 4] = centre - half, centre + half, radius
        shapes[:, k, 5:] = np.clip(base + rng.uniform(-50, 50, 3), 0, 255)
    return shapes


def background(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """Draw a still picture larger than the frame: gradient, texture and clutter around one colour, uint8."""
    height, width = HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN
    y, x = np.mgrid[0:height, 0:width]
    shade = (y / height - 0.5) * rng.uniform(-40, 40) + (x / width - 0.5) * rng.uniform(-40, 40)
    blocks = np.kron(rng.normal(0, 5, (height // 8 + 1, width // 8 + 1)), np.ones((8, 8)))[:height, :width]
    picture = base + (shade + blocks)[..., None]
    canvas: np.ndarray = np.clip(picture, 0, 255).astype(np.uint8)
    clutter = np.empty((int(rng.integers(8, 18)), 8))
    clutter[:, :2] = rng.uniform([0, 0], [width, height], (len(clutter), 2))
    clutter[:, 2:4] = clutter[:, :2] + rng.normal(0, 28, (len(clutter), 2))
    clutter[:, 4] = rng.uniform(2, 16, len(clutter))
    clutter[:, 5:] = np.clip(base + rng.uniform(-28, 28, (len(clutter), 3)), 0, 255)
    rasterise(canvas, clutter)
    return canvas


def make_scene(index: int, *, videos: int, seed: int) -> Scene:
    """Create the scene of video `index` from independent random streams for script, motion and appearance."""
    script_rng, motion_rng, look_rng = (np.random.default_rng([seed, index, stream]) for stream in range(3))
    trait = trait_of(index, videos)
    pts, unit = frame_times(script_rng, trait, float(script_rng.uniform(40, 90)))
    edges = pts * float(unit)
    script = draw_script(script_rng, edges)
    pose, times = draw_pose(motion_rng, edges, script), edges[:-1]

    dark = look_rng.random() < 0.5
    base = np.clip((80.0 if dark else 180.0) + look_rng.uniform(-25, 25, 3), 0, 255)
    contrast = np.array([95.0, 40.0, 120.0])[:, None] + look_rng.uniform(-18, 18, (3, 3))
    colours = np.clip(base + (contrast if dark else -contrast), 0, 255)
    jitter = look_rng.normal(0, look_rng.uniform(0.0, 0.5), (len(times), 2))
    pan = np.stack([swing(look_rng, times, look_rng.uniform(0, 20), 5.0), swing(look_rng, times, 6.0, 5.0)], -1)
    camera = np.round(pan + jitter)
    person = figure(look_rng, times, pose, colours)
    person[..., :4] += np.tile([look_rng.uniform(110, 210), look_rng.uniform(0.92, 0.96) * HEIGHT], 2)
    shapes = np.concatenate([distractors(look_rng, times, base), person], 1)
    shapes[..., :4] += np.tile(camera, 2)[:, None]

    gain = np.ones(len(times))
    for _ in range(int(look_rng.integers(0, 3))):
        start, length = look_rng.uniform(0, edges[-1]), look_rng.uniform(2, 6)
        lit = (times >= start) & (times < start + length)
        gain[lit] += look_rng.uniform(0.08, 0.2) * np.sign(np.sin(2 * math.pi * look_rng.uniform(2, 8) * times[lit]))
    segments = [(round(float(edges[a]), 6), round(float(edges[b]), 6), label) for a, b, label in script]
    end, canvas = round(float(edges[-1]), 6), background(look_rng, base)
    return Scene(trait, times, pts, unit, end, segments, pose, canvas, camera, gain, shapes)


@njit(cache=True)  # type: ignore[untyped-decorator]
def rasterise(image_HW3: np.ndarray, shapes_S8: np.ndarray) -> None:
    """Draw capsules with soft edges into a uint8 picture, in the given order."""
    height, width = image_HW3.shape[:2]
    for s in range(shapes_S8.shape[0]):
        x0, y0, x1, y1, radius = shapes_S8[s, :5]
        dx, dy = x1 - x0, y1 - y0
        square = dx * dx + dy * dy + 1e-9
        for y in range(max(0, int(min(y0, y1) - radius - 1)), min(height, int(max(y0, y1) + radius + 2))):
            for x in range(max(0, int(min(x0, x1) - radius - 1)), min(width, int(max(x0, x1) + radius + 2))):
                u = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / square))
                distance = (x - x0 - u * dx) ** 2 + (y - y0 - u * dy) ** 2
                if distance < (radius + 0.5) ** 2:
                    cover = min(1.0, radius + 0.5 - math.sqrt(distance))
                    for c in range(3):
                        old = image_HW3[y, x, c]
                        image_HW3[y, x, c] = np.uint8(old + cover * (shapes_S8[s, 5 + c] - old) + 0.5)


def picture(scene: Scene, frame: int) -> np.ndarray:
    """Render frame `frame` as it is displayed: (HEIGHT, WIDTH, 3) uint8 RGB."""
    x, y = (MARGIN - np.clip(scene.camera_F2[frame], -MARGIN, MARGIN)).astype(int)
    image = np.array(scene.canvas_HW3[y : y + HEIGHT, x : x + WIDTH])
    rasterise(image, scene.shapes_FS8[frame])
    levels = np.clip(np.arange(256) * scene.gain_F[frame], 0, 255).astype(np.uint8)
    return np.asarray(levels[image] if scene.gain_F[frame] != 1.0 else image)
