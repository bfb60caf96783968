"""The sound sources of the embedded scenes and the taxonomy above them: source -> family -> domain.

Every source belongs to one family and every family to one domain, so a meaning on a specific level implies exactly one
on each more general level.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Style = Literal["melodic", "hits", "texture"]

NOTES = 12  # recordings of each source in the bank: 6 low then 6 high ones for melodic sources
SCALE = (0, 2, 4, 5, 7, 9)  # semitones above the lowest note of a register


class Source(NamedTuple):
    """One sound source and how to say it."""

    key: str
    """Its name, also the short noun: "cello", "snare drum", "applause"."""
    family: str
    style: Style
    program: int | None
    """General MIDI program counted from 0; None is the percussion channel."""
    pitches: tuple[int, int]
    """MIDI note numbers: lowest of the low and of the high register; lowest and highest for other styles."""
    noun: str
    """With its article: "a cello", "applause"."""
    other: str
    """Another way to say `noun`."""
    one: str
    """A single sound: "cello note", "snare drum hit", "gunshot"."""
    many: str
    """Several of them: "cello melody", "snare drum hits", "gunshots"."""

    def notes(self) -> list[tuple[int, int]]:
        """(pitch, velocity) of the recordings in the bank."""
        first, second = self.pitches
        if self.style == "melodic":
            return [(base + step, 100) for base in (first, second) for step in SCALE]
        if self.program is None:  # a drum has one pitch: the force varies instead
            return [(first, 72 + 5 * n) for n in range(NOTES)]
        return [(first + round(n * (second - first) / (NOTES - 1)), 110) for n in range(NOTES)]


DOMAINS: dict[str, float] = {"music": 0.52, "percussion": 0.21, "people": 0.09, "nature": 0.08, "devices": 0.1}
"""The domains, and how often the sounds of a scene come from each."""

_FAMILIES_OF = {
    "music": ("keyboard", "organ", "mallet", "plucked", "bowed", "brass", "woodwind", "choir", "synthesizer"),
    "percussion": ("drum", "cymbal", "wood percussion", "metal percussion", "shaker"),
    "people": ("crowd", "person"),
    "nature": ("water", "animal"),
    "devices": ("signal", "aircraft", "weapon"),
}
FAMILIES = {family: domain for domain, families in _FAMILIES_OF.items() for family in families}
"""Family -> domain."""


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _melodic(family: str, table: str) -> list[Source]:
    """Rows `name; program counted from 1; low; high; other name`."""
    out = []
    for row in table.strip().splitlines():
        name, program, low, high, other = (cell.strip() for cell in row.split(";"))
        out.append(
            Source(
                key=name,
                family=family,
                style="melodic",
                program=int(program) - 1,
                pitches=(int(low), int(high)),
                noun=_article(name),
                other=_article(other),
                one=f"{name} note",
                many=f"{name} melody",
            )
        )
    return out


def _drums(family: str, table: str) -> list[Source]:
    """Rows `name; percussion note; name of one sound; other name`."""
    out = []
    for row in table.strip().splitlines():
        name, note, one, other = (cell.strip() for cell in row.split(";"))
        many = one + ("es" if one.endswith(("ch", "sh")) else "s")
        out.append(Source(name, family, "hits", None, (int(note),) * 2, _article(name), _article(other), one, many))
    return out


SOURCES: tuple[Source, ...] = (
    *_melodic(
        "keyboard",
        """
        grand piano; 1; 36; 72; concert piano
        electric piano; 5; 38; 72; Rhodes piano
        harpsichord; 7; 38; 68; cembalo
        clavinet; 8; 38; 68; clavinet keyboard
        """,
    ),
    *_melodic(
        "organ",
        """
        church organ; 20; 38; 74; pipe organ
        rock organ; 19; 38; 74; Hammond organ
        accordion; 22; 46; 74; squeezebox
        harmonica; 23; 60; 79; mouth organ
        """,
    ),
    *_melodic(
        "mallet",
        """
        celesta; 9; 60; 84; celeste
        glockenspiel; 10; 67; 88; set of orchestra bells
        music box; 11; 60; 84; musical box
        vibraphone; 12; 50; 74; vibraharp
        marimba; 13; 45; 72; set of marimba bars
        xylophone; 14; 62; 84; set of xylophone bars
        tubular bell; 15; 55; 76; chime tube
        hammered dulcimer; 16; 50; 74; santur
        steel drum; 115; 52; 72; steelpan
        kalimba; 109; 55; 76; thumb piano
        """,
    ),
    *_melodic(
        "plucked",
        """
        nylon guitar; 25; 40; 64; classical guitar
        jazz guitar; 27; 40; 64; mellow electric guitar
        distorted guitar; 31; 40; 64; heavy metal guitar
        banjo; 106; 48; 69; five-string banjo
        sitar; 105; 48; 69; Indian sitar
        koto; 108; 48; 69; Japanese koto
        harp; 47; 38; 74; concert harp
        upright bass; 33; 28; 48; plucked double bass
        slap bass; 37; 28; 48; slapped bass guitar
        """,
    ),
    *_melodic(
        "bowed",
        """
        violin; 41; 55; 79; classical violin
        cello; 43; 36; 62; violoncello
        string orchestra; 49; 40; 74; string section
        fiddle; 111; 55; 79; folk fiddle
        """,
    ),
    *_melodic(
        "brass",
        """
        trumpet; 57; 52; 74; brass trumpet
        trombone; 58; 38; 60; slide trombone
        tuba; 59; 28; 48; bass tuba
        muted trumpet; 60; 52; 74; trumpet with a mute
        French horn; 61; 38; 62; hunting horn
        """,
    ),
    *_melodic(
        "woodwind",
        """
        alto saxophone; 66; 49; 70; alto sax
        oboe; 69; 58; 79; hautboy
        bassoon; 71; 34; 58; double-reed bassoon
        clarinet; 72; 50; 76; B-flat clarinet
        piccolo; 73; 74; 92; small flute
        flute; 74; 60; 84; concert flute
        pan flute; 76; 60; 82; set of panpipes
        bagpipe; 110; 50; 70; set of bagpipes
        ocarina; 80; 60; 82; clay vessel flute
        """,
    ),
    *_melodic(
        "choir",
        """
        choir; 53; 43; 67; chorus of singers
        synthetic voice; 55; 43; 67; robotic voice
        """,
    ),
    *_melodic(
        "synthesizer",
        """
        square-wave synth; 81; 45; 74; hollow synth lead
        sawtooth synth; 82; 45; 74; buzzing synth lead
        synth pad; 90; 43; 67; warm synthesizer pad
        synth bass; 39; 28; 48; bass synthesizer
        """,
    ),
    *_drums(
        "drum",
        """
        bass drum; 36; bass drum kick; kick drum
        snare drum; 38; snare drum hit; snare
        tom-tom; 45; tom-tom hit; tom drum
        bongo drum; 60; bongo drum hit; hand-held bongo
        conga drum; 64; conga drum hit; tall Cuban drum
        timbale drum; 66; timbale drum hit; Latin timbale
        """,
    ),
    *_drums(
        "cymbal",
        """
        closed hi-hat; 42; closed hi-hat tick; shut hi-hat
        open hi-hat; 46; open hi-hat hit; sizzling hi-hat
        crash cymbal; 49; crash cymbal crash; crashing cymbal
        ride cymbal; 51; ride cymbal stroke; riding cymbal
        """,
    ),
    *_drums(
        "wood percussion",
        """
        woodblock; 76; woodblock knock; block of wood
        clave; 75; clave click; pair of claves
        guiro; 74; guiro scrape; scraped gourd
        rim of a snare; 37; rim click; drum rim
        """,
    ),
    *_drums(
        "metal percussion",
        """
        cowbell; 56; cowbell clank; metal cowbell
        agogo bell; 67; agogo bell clang; Brazilian agogo
        triangle; 81; triangle ting; steel triangle
        """,
    ),
    *_drums(
        "shaker",
        """
        tambourine; 54; tambourine jingle; jingling tambourine
        cabasa; 69; cabasa shake; beaded cabasa
        maraca; 70; maraca shake; pair of maracas
        vibraslap; 58; vibraslap rattle; rattling vibraslap
        """,
    ),
    Source("applause", "crowd", "texture", 126, (54, 65), "applause", "people clapping", "applause", "applause"),
    Source(
        "hand clap", "person", "hits", None, (39, 39), "a hand clap", "clapping hands", "hand clap", "hand claps"
    ),
    Source("breath", "person", "hits", 121, (55, 66), "breathing", "someone's breath", "breath", "breaths"),
    Source("sea", "water", "texture", 122, (54, 65), "the sea", "ocean waves", "surf", "surf"),
    Source("bird", "animal", "texture", 123, (54, 65), "a bird", "a tweeting bird", "birdsong", "birdsong"),
    Source(
        "telephone", "signal", "texture", 124, (54, 65), "a telephone", "a ringing phone", "telephone ringing",
        "telephone ringing",
    ),
    Source("whistle", "signal", "hits", None, (71, 72), "a whistle", "a referee's whistle", "whistle blow",
        "whistle blows",
    ),
    Source(
        "helicopter", "aircraft", "texture", 125, (54, 65), "a helicopter", "a chopper", "helicopter noise",
        "helicopter noise",
    ),
    Source("gun", "weapon", "hits", 127, (54, 65), "a gun", "gunfire", "gunshot", "gunshots"),
)  # fmt: skip
"""All sources; the order is the row order of the note bank."""

BY_KEY: dict[str, Source] = {source.key: source for source in SOURCES}


def domain(source: str) -> str:
    """The domain that the source belongs to."""
    return FAMILIES[BY_KEY[source].family]
