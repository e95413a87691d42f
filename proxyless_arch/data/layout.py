"""Which folders of a source are its classes, and which its training, validation and test images.

People lay their images out in many ways. What is found here: ``cat/ dog/``; ``train/ val/ test/`` with class folders,
in any spelling (``Training``, ``seg_train``, ``val_images``); ``cat/train cat/test``; ``cat_train cat_test``; class
folders with a ``test/`` beside them; and any of it below folders that hold nothing else. What may be one thing or
another is refused: splits trained as classes give a network that is wrong without a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

from proxyless_arch.base.errors import InputError
from proxyless_arch.base.strict import counted, listed
from proxyless_arch.base.text import readable
from proxyless_arch.data.sources import ARCHIVES, EDITION, LAYOUT, Lister, Listing, by_ending, ending, other_files

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The parts of a data set, and the folder names that edition 1 knows for each."""
_WORDS = {
    "train": """
        train training trn trainval trains trainings
        entrenamiento entrainement entraînement apprentissage treino treinamento addestramento allenamento trainieren
        trainen trening träning traening træning treningowy treningowe uczący trénink trenink trénovací tanító opetus
        eğitim egitim εκπαίδευση обучение обучающая тренировка навчання тренування pelatihan latih تدريب التدريب אימון
        训练 训练集 訓練 訓練集 学習 학습 훈련
    """,
    "val": """
        val valid validation validate dev development eval evaluation vals validations validating holdout holdouts
        heldout
        validacion validación validacao validação validierung validazione validatie validering walidacja walidacyjny
        validace validáció validointi doğrulama dogrulama επικύρωση валидация валидационная валідація validasi التحقق
        אימות 验证 验证集 驗證 驗證集 検証 評価 검증 평가
    """,
    "test": """
        test testing tst tests testings unseen
        prueba pruebas essai essais teste testes testen prova prove collaudo testowy testowe testovací tesztelés testi
        sınama δοκιμή тест тестовая тестовый тестування pengujian uji
        اختبار الاختبار מבחן 测试 测试集 測試 測試集
        テスト 테스트 시험
    """,
}
WORDS = {word: split for split, words in _WORDS.items() for word in words.split()}
"""Words that make a folder a split, in small letters and many languages."""
_FILLERS = """
    set sets data dataset datasets image images img imgs photo photos picture pictures pic pics jpg jpeg png folder
    folders dir seg split splits the my raw all full final original resized cropped new subset sample samples part files
    and public private hidden blind labeled labelled unlabeled unlabelled external internal
"""
FILLERS = frozenset(_FILLERS.split())
"""Words beside them that say nothing."""
GLUED = {
    word: pair
    for split in WORDS
    for filler in FILLERS
    for word, pair in ((split + filler, (split, filler)), (filler + split, (filler, split)))
}
"""Both as one word: ``traindata``, ``imgtrain``."""
AMONG_CLASSES = {
    "train": frozenset(("train", "trains")),
    "trains": frozenset(("train", "trains")),
    "valid": frozenset(("invalid",)),
    "dev": frozenset(("ops", "prod", "production", "staging", "design", "devops")),
}
"""Names of splits that are classes too: alone (a train is a vehicle), or beside one of these."""
_UNSORTED = """
    unlabeled unlabelled unannotated unsorted predict prediction predictions inference submission submissions
"""
UNSORTED = frozenset(_UNSORTED.split())
"""Words for images that nobody has sorted into classes."""
PICTURED = frozenset(["image", "img", "photo", "picture", "jpegimage", "jpg", "rgb"])
MARKED = frozenset(
    [
        "mask",
        "label",
        "annotation",
        "segmentation",
        "segmentationclass",
        "segmentationobject",
        "groundtruth",
        "gt",
        "xml",
        "json",
        "bbox",
        "bboxe",
        "box",
        "boxe",
        "trimap",
        "mat",
    ]
)
"""Names, without a plural's s, of a folder of images and of one of what was marked in them, which are no classes."""
ANNOTATIONS = "val_annotations.txt"
MAX_FOLDER_DEPTH = 8

Reader = Callable[[str], bytes]
"""The bytes of a file, from its path in the source."""
Where = str | tuple[str, ...]
"""A folder with all images below it, or the images one by one."""


@dataclass(frozen=True)
class Part:
    """One part of a data set.

    Args:
        place: its folder, for a person; '' for class folders at the top.
        classes: where the images of each class are, by the folder's own name.
    """

    place: str
    classes: Mapping[str, Where]

    @property
    def shown(self) -> str:
        return f"{self.place}/" if self.place else "class folders only"


@dataclass(frozen=True)
class Layout:
    """The parts of a data set by name: ``train``, ``val``, ``test``, or '' for class folders that are none of them.

    ``unused``: folders that are not read, in words. ``loose``: images outside of class folders. ``unlabeled_test``: why
    there is no test set, though a folder says that it is one.
    """

    parts: Mapping[str, Part]
    unused: tuple[str, ...] = ()
    loose: int = 0
    unlabeled_test: InputError | None = None

    def choose(self, split: str | None, path: str) -> str:
        """The part that ``split`` means: 'train', 'val' or 'test'; 'eval' for test, else val, else class folders; None
        for the only one there is. Raises InputError where it is not there."""
        there = ", ".join(part.shown for name, part in self.parts.items() if name) or "class folders only"
        if split is None and len(self.parts) == 1:
            return next(iter(self.parts))
        order = {"eval": ("test", "val", ""), "train": ("train",), "val": ("val",), "test": ("test",), None: ()}
        if split not in order:
            raise InputError(f"expected 'train', 'val', 'test' or 'eval', got {split!r}", "split")
        for name in order[split]:
            if name in self.parts:
                return name
        if split is None:
            raise InputError(f"say which one to read: found {there}", "split", path)
        if split in ("eval", "test") and self.unlabeled_test is not None:
            raise self.unlabeled_test
        wanted = "test/ or val/" if split == "eval" else f"{split}/"
        others = f"; if one of these is it, call it {wanted}: {', '.join(self.unused)}" if self.unused else ""
        raise InputError(f"expected {wanted}, found {there}{others}", "split", path)


def find_layout(lister: Lister, read: Reader, path: str, edition: int = EDITION) -> Layout:
    """How the images at ``path`` are laid out. Raises InputError for what may be splits or classes."""
    if edition == 1:
        return _first_edition(lister)
    outer = below_wrappers(lister, "")
    top = _beside_unsorted(lister, outer)
    found = _by_split(lister, read, top, path) or _by_class(lister, top, path)
    if top == outer:
        return found
    beside = [join(outer, name) for name in lister(outer).folders if join(outer, name) != top]
    return replace(found, unused=(*found.unused, *filter(None, (_unused(lister, name, False) for name in beside))))


# ------------------------------------------------------------------------------------------------ the names of folders


class Role(NamedTuple):
    """What a folder's name says: a split, and what is left of the name without the words for it (``cat`` of
    ``cat_train``; '' where nothing is)."""

    split: str
    rest: str


def role_of(name: str) -> Role | None:
    """The split that a folder's name says, None for any other name."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    spaced = re.sub(r"(?i)\b(hold|held)[\W_]+out", r"\1out", spaced)
    found = [word.lower() for word in re.split(r"[\W_\d]+", spaced) if word]
    words = [part for word in found for part in GLUED.get(word, (word,))]
    splits = {WORDS[word] for word in words if word in WORDS}
    split = "train" if splits == {"train", "val"} else "".join(splits)  # train_val
    if split not in SPLITS:
        return None
    return Role(split, " ".join(word for word in words if word not in WORDS and word not in FILLERS))


def _is_unsorted(name: str) -> bool:
    """Whether a folder's name says that its images have no class: ``unlabeled``, ``images_to_predict``."""
    words = {word for word in re.split(r"[\W_\d]+", name.lower()) if word}
    return bool(words & UNSORTED) and words <= UNSORTED | FILLERS | {"to", "for", "on", "of"}


def look(name: str) -> str:
    """What a name looks like: two of one look are not told apart by a person, nor by other systems."""
    visible = (char for char in readable(name) if unicodedata.category(char) != "Cf")
    return " ".join("".join(visible).split())


# ------------------------------------------------------------------------------------------------------- the folders


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def below_wrappers(lister: Lister, folder: str, *, in_split: bool = False) -> str:
    """The folder that holds the others, below ones that hold a single folder and no image.

    A split that stands alone is no wrapper, unless it lies in another (``train/train/``).
    """
    place = before = folder
    for _ in range(MAX_FOLDER_DEPTH):
        found = lister(place)
        if found.images or not found.folders:
            return before
        role = role_of(found.folders[0])
        if len(found.folders) > 1 or (role is not None and not role.rest and not in_split):
            return place
        before, place = place, join(place, found.folders[0])
    return folder


def images_under(lister: Lister, folder: str, depth: int = 0) -> tuple[list[str], list[str]]:
    """(the images below a folder, its other files), by their paths in the source."""
    if depth > MAX_FOLDER_DEPTH:
        raise InputError(f"folders nested more than {MAX_FOLDER_DEPTH} deep (a link that loops?)", folder)
    found = lister(folder)
    images = [join(folder, image) for image in found.images]
    others = [join(folder, other) for other in found.others]
    for inner in found.folders:
        more, beside = images_under(lister, join(folder, inner), depth + 1)
        images += more
        others += beside
    return images, others


def _class_folders(lister: Lister, folder: str) -> dict[str, Where]:
    return {name: join(folder, name) for name in lister(folder).folders}


def _unused(lister: Lister, folder: str, is_split: bool) -> str:
    """A folder that is not read, in words; '' for one that is no split and holds no images."""
    n_images = len(images_under(lister, folder)[0])
    if not n_images:
        return f"{folder}/ (no images)" if is_split else ""
    return f"{folder}/ ({counted(n_images, 'image')}{', no class folders' if is_split else ''})"


def _beside_unsorted(lister: Lister, top: str) -> str:
    """The one folder beside images that nobody has sorted (``labeled/cat labeled/dog unlabeled``), if it holds
    nothing but folders; else ``top``."""
    sorted_ones = [name for name in lister(top).folders if not _is_unsorted(name) or lister(join(top, name)).folders]
    if len(sorted_ones) != 1 or len(lister(top).folders) == 1:
        return top
    inside = lister(join(top, sorted_ones[0]))
    is_split = (role := role_of(sorted_ones[0])) is not None and not role.rest
    return top if inside.images or len(inside.folders) < 2 or is_split else join(top, sorted_ones[0])


# ------------------------------------------------------------------------------------------------- train/cat, test/cat


def _by_split(lister: Lister, read: Reader, top: str, path: str) -> Layout | None:
    """The layout where folders of ``top`` are splits that hold the classes; None where there is none."""
    listing = lister(top)
    roles = _opened(lister, top, _roles(listing.folders))
    inner = {name: below_wrappers(lister, join(top, name), in_split=True) for name in roles}
    classes = {name: _classes_of(lister, read, inner[name]) for name in roles}
    labeled = {name: role for name, role in roles.items() if classes[name]}
    flat = [name for name in roles if name not in labeled]
    _refuse_flat_splits(lister, top, flat, labeled, roles, path)
    if not labeled:
        return None
    parts = {}
    for split in SPLITS:
        names = [name for name, role in labeled.items() if role.split == split]
        if len(names) > 1:
            found = listed(f"{join(top, name)}/" for name in names).replace(" or ", " and ")
            raise InputError(f"expected one folder of {split} images, found {found}", source=path)
        if names:
            _refuse_annotations(lister(inner[names[0]]).folders, inner[names[0]], path)
            _refuse_groups(lister, inner[names[0]], path)
            parts[split] = Part(join(top, names[0]), classes[names[0]])
    split_folders = {name.partition("/")[0] for name in labeled}
    rest = [name for name in listing.folders if name not in split_folders]
    beside = {name: join(top, name) for name in rest if name not in flat}
    if "train" not in parts and _are_the_classes(beside, parts.values()):
        parts = {"train": Part(top, dict(beside)), **parts}
        rest = flat
    unused = tuple(words for name in rest if (words := _unused(lister, join(top, name), name in flat)))
    loose = len(listing.images) + sum(len(lister(inner[name]).images) for name in labeled)
    tests = {name: name in flat for name in rest if (role := role_of(name)) is not None and role.split == "test"}
    unlabeled = None if {"test", "val"} & set(parts) else _unlabeled_test(lister, top, tests, path)
    return Layout(parts, unused, loose, unlabeled)


def _roles(names: Iterable[str]) -> dict[str, Role]:
    """The folders whose names say a split: with nothing else, or all with the same rest (``pets_train pets_test``)."""
    found = {name: role for name in names if (role := role_of(name)) is not None}
    plain = {name: role for name, role in found.items() if not role.rest}
    if plain:
        return plain
    rests, splits = {role.rest for role in found.values()}, {role.split for role in found.values()}
    return found if len(rests) == 1 and len(splits) > 1 else {}


def _opened(lister: Lister, top: str, roles: Mapping[str, Role]) -> dict[str, Role]:
    """The splits, with those that lie in another one in its place: ``train_val/train train_val/val``."""
    opened: dict[str, Role] = {}
    for name, role in roles.items():
        folders = lister(join(top, name)).folders
        within = _roles(folders)
        holds_splits = len(within) == len(folders) and len({inner.split for inner in within.values()}) > 1
        opened |= {join(name, sub): inner for sub, inner in within.items()} if holds_splits else {name: role}
    return opened


def _are_the_classes(beside: Mapping[str, str], parts: Iterable[Part]) -> bool:
    """Whether class folders lie beside the split that holds the same ones: ``cat dog test/cat test/dog``."""
    return any(sorted(map(look, beside)) == sorted(map(look, part.classes)) for part in parts)


def _classes_of(lister: Lister, read: Reader, folder: str) -> dict[str, Where]:
    """The classes of a split; none where its images lie in it, or in one folder called ``images`` or the like.

    tiny-imagenet's val/ has a list beside that folder, which says the class of each image.
    """
    found = lister(folder)
    if len(found.folders) == 1 and lister(join(folder, found.folders[0])).images and _says_nothing(found.folders[0]):
        return _annotated(lister, read, folder) if ANNOTATIONS in found.others else {}
    return _class_folders(lister, folder)


def _says_nothing(name: str) -> bool:
    return all(word in FILLERS for word in re.split(r"[\W_\d]+", name.lower()) if word)


def _annotated(lister: Lister, read: Reader, folder: str) -> dict[str, Where]:
    """``val_0.JPEG<tab>n03444034<tab>...`` per line as ``{class: images}``."""
    images = join(folder, lister(folder).folders[0])
    there, classes = set(lister(images).images), dict[str, list[str]]()
    for line in read(join(folder, ANNOTATIONS)).decode("utf-8", "replace").splitlines():
        name, _, behind = line.partition("\t")
        if name in there:
            classes.setdefault(behind.split("\t")[0], []).append(join(images, name))
    return {name: tuple(sorted(places)) for name, places in sorted(classes.items())}


def _refuse_flat_splits(
    lister: Lister, top: str, flat: Sequence[str], labeled: Mapping, roles: Mapping[str, Role], path: str
) -> None:
    """Raises InputError where splits without class folders would be classes, or a class a split."""
    if labeled:
        return
    folders = lister(top).folders
    splits = {roles[name].split for name in flat}
    if "train" in splits and len(splits) > 1:
        found = listed(f"{join(top, name)}/" for name in flat).replace(" or ", " and ")
        raise InputError(f"{LAYOUT}, found {found} without class folders", source=path)
    names = {look(name).lower() for name in folders}
    no_class = [name for name in flat if not names & AMONG_CLASSES.get(look(name).lower(), frozenset())]
    no_class += [name for name in folders if _is_unsorted(name) and not lister(join(top, name)).folders]
    beside = [name for name in folders if name not in no_class]
    if no_class and len(beside) > 1:
        _refuse_no_class(join(top, no_class[0]), beside[0], path)


def _refuse_no_class(name: str, beside: str, path: str) -> NoReturn:
    raise InputError(
        f"{name}/ lies among class folders and holds no class folders itself: sort its images into them "
        f"({name}/{beside}/ ...), move it elsewhere, or call it otherwise if it is a class",
        source=path,
    )


def _unlabeled_test(lister: Lister, top: str, tests: Mapping[str, bool], path: str) -> InputError | None:
    """Why there is nothing to test on, where a folder says that it is the test set but cannot be used as one.

    ``tests``: such folders, and whether nothing but a split is in their names (not ``kaggle_test``).
    """
    name = next(iter(tests), None)
    if name is None:
        return None
    place = join(top, name)
    if _class_folders(lister, below_wrappers(lister, place, in_split=True)) and not tests[name]:
        problem = f"{place}/ may be the test images: call it {join(top, 'test')}/"
    else:
        problem = (
            f"{place}/ holds no class folders, so nothing can be scored on it: sort its images into {place}/CLASS/"
        )
    split_off = "or move it elsewhere to have test images split off the training images"
    return InputError(f"{problem}, {split_off}", source=path)


# ------------------------------------------------------------------------------------------------- cat/train, cat/test


def _by_class(lister: Lister, top: str, path: str) -> Layout:
    """The layout where the folders of ``top`` are the classes, each of which may hold its own splits."""
    listing = lister(top)
    if not listing.folders:
        n = len(listing.images)
        found = f"{counted(n, 'image')} and no folder" if n else f"no folder and no image{_instead(listing)}"
        raise InputError(f"{LAYOUT}, found {found}", top, path)
    _refuse_annotations(listing.folders, top, path)
    parts = _split_classes(lister, top, listing, path) or _named_for_splits(lister, top, listing)
    if parts is not None:
        return Layout(parts, (), len(listing.images))
    _refuse_groups(lister, top, path)
    return Layout({"": Part(top, _class_folders(lister, top))}, (), len(listing.images))


def _instead(listing: Listing) -> str:
    """What lies there instead of images, in words."""
    found = [name for name in listing.others if ending(name) in (".zip", *ARCHIVES)]
    if found:
        return f", but an archive, {found[0]}: give that (a .zip), or unpack it"
    return f", but {by_ending(other_files(listing.others).files)}" if listing.others else ""


def _split_classes(lister: Lister, top: str, listing: Listing, path: str) -> dict[str, Part] | None:
    """``cat/train cat/test dog/train dog/test`` as parts; None where the classes hold no splits.

    Raises InputError where some classes hold a test set and others do not, or images beside it.
    """
    splits: dict[str, dict[str, Where]] = {}
    is_plain = False
    held_out = ""
    for name in listing.folders:
        inner = lister(join(top, name))
        roles = {sub: role for sub in inner.folders if (role := role_of(sub)) is not None and not role.rest}
        if inner.images or len(roles) < len(inner.folders) or not roles:
            is_plain = True
        if len(roles) == len(inner.folders):
            held_out = held_out or next((f"{name}/{sub}" for sub, role in roles.items() if role.split != "train"), "")
        if len({role.split for role in roles.values()}) < len(roles):  # cat/train, cat/training
            is_plain = True
        for sub, role in roles.items():
            splits.setdefault(role.split, {})[name] = f"{join(top, name)}/{sub}"
    if is_plain and held_out and len(listing.folders) > 1:
        raise InputError(
            f"{held_out}/ lies in a class folder, and not every class is split alike: expected train/ and test/ in "
            "each, or in none",
            join(top, held_out),
            path,
        )
    if is_plain or len(splits) < 2:
        return None
    return {split: Part(f"{join(top, '*')}/{split}", splits[split]) for split in SPLITS if split in splits}


def _named_for_splits(lister: Lister, top: str, listing: Listing) -> dict[str, Part] | None:
    """``cat_train cat_test dog_train dog_test`` as parts; None where the folders are not named so."""
    roles = {name: role for name in listing.folders if (role := role_of(name)) is not None and role.rest}
    per_class = Counter(role.rest for role in roles.values())
    splits = {role.split for role in roles.values()}
    is_complete = len(roles) == len(listing.folders) == len(per_class) * len(splits) == len(set(roles.values()))
    if not is_complete or len(splits) < 2 or len(per_class) < 2:
        return None
    if not all(lister(join(top, name)).images for name in roles):
        return None
    return {
        split: Part(
            f"{join(top, '*')}_{split}",
            {role.rest: join(top, name) for name, role in roles.items() if role.split == split},
        )
        for split in SPLITS
        if split in splits
    }


def _refuse_annotations(folders: Sequence[str], place: str, path: str) -> None:
    """Raises InputError where the folders are images and what was marked in them: masks, boxes, labels in files."""
    known = PICTURED | MARKED
    plain = [re.sub(r"[\W_\d]+", "", name.lower()) for name in folders]
    names = {name if name in known else name.removesuffix("s") for name in plain}
    if names & PICTURED and names & MARKED and names <= known:
        found = " and ".join(f"{name}/" for name in folders[:3])
        raise InputError(
            f"{found} are images beside their annotations, as for segmentation or detection, and no classes: what is "
            "trained here needs one folder of images per class",
            place,
            path,
        )


def _refuse_groups(lister: Lister, folder: str, path: str) -> None:
    """Raises InputError for class folders that hold no images, only (mostly) the same folders: they may be splits."""
    classes = lister(folder).folders
    first = lister(join(folder, classes[0])) if classes else Listing((), ())
    if first.images or len(first.folders) < 2:  # as nearly always: the others need not be looked at
        return
    inner = [lister(join(folder, name)) for name in classes]
    names = [set(map(look, listing.folders)) for listing in inner]
    same = sorted(set.intersection(*names))
    are_alike = len(same) > 1 and 2 * len(same) >= len(set.union(*names))
    if len(classes) < 2 or not are_alike or any(listing.images for listing in inner):
        return
    some = ", ".join(same[:3]) + (", ..." if len(same) > 3 else "")
    groups = " and ".join(f"{name}/" for name in classes[:2]) + (" ..." if len(classes) > 2 else "")
    raise InputError(
        f"{groups} hold no images of their own, only the same folders ({some}). If these are the classes, call the "
        f"others train/ and val/ (or test/), or put them together; if not, put the images into {classes[0]}/ itself",
        folder,
        path,
    )


# --------------------------------------------------------------------------------------------------------- edition 1


def _first_edition(lister: Lister) -> Layout:
    """As folders were read before December 2026, for runs of that time: exact names, and nothing is refused."""
    top = ""
    folders, images, _ = lister(top)
    split_names = [name for names in SPLITS.values() for name in names]
    if len(folders) == 1 and not images and folders[0] not in split_names:
        inner = lister(folders[0])
        if inner.folders and not inner.images:
            top, folders = folders[0], inner.folders
    found: dict[str, Part] = {}
    for split, names in SPLITS.items():
        for name in names:
            folder = join(top, name)
            # A folder without folders is a class called 'train', or ImageNet's test set, which has no labels.
            if split not in found and name in folders and lister(folder).folders:
                found[split] = Part(folder, _class_folders(lister, folder))
    return Layout(found or {"": Part(top, _class_folders(lister, top))})
