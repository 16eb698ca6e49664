"""Stock words and phrases of business, marketing and chatbot prose, with a class and a strength each. English only.

Written for Luthier from what management writing and model answers have in common; no list of another project went into
it. A phrase belongs here when it says little in the place where it is usual, and when a plainer wording is at hand.
Words that a trade needs in their plain sense (vertical, framework, solution, optimise) are left out.

How a line is read: phrases are separated by `|`; `a/b` in place of a word stands for either; `?word` may be absent;
`verb~` stands for all regular forms of the verb, `noun+` for singular and plural. Hyphens are spaces, case is ignored.
"""

from typing import Final

WEAK, PLAIN, STRONG = 0.5, 1.0, 2.0  # has plain uses too; marks the style; hardly written by a person for themselves

WORDS: Final[dict[str, dict[float, str]]] = {
    "management": {
        WEAK: """
            strategic/strategically | streamline~ | facilitate~ | utilize~ | prioritize~
            | collaborative/collaboration+ | deliverable+ | scalable/scalability | transparency | accountability
            | proactive/proactively | implement~ effective | enhance~ efficiency | improve~ efficiency
            | competitive advantage+ | roadmap+ | bottom line | key metric+ | value chain+ | market leader+
            | time to market
        """,
        PLAIN: """
            leverage~ | stakeholder+ | synergy/synergies | synergistic | actionable | value proposition+ | foster~
            | core competency/competencies | best practice+ | low hanging fruit | move the needle | circle~ back
            | touch base | deep dive+ | drill~ down into | pain point+ | thought leader+ | thought leadership
            | cross functional | key performance indicator+ | bandwidth for | win win | customer centric
            | user centric | client centric | people centric | holistic | holistically | operationalize~
            | incentivize~ | ideate~ | ideation | onboarding | upskill~ | reskill~ | right size~ | cascade~ down
            | double~ down on | north star | growth mindset | culture of | change agent+ | change management
            | capacity building | continuous improvement | organizational resilience | agile/agility
            | strategic vision | strategic alignment | strategic partnership+ | strategic goals/objectives/priorities
            | measurable/tangible results/outcomes | sustainable growth | long term success
            | drive~ growth/success/value | driving growth/success/value | drives/drove growth/success/value
            | data driven | results driven | purpose driven | insight driven | outcome driven | mission driven
            | end to end solution+ | return on investment | work life balance | employee engagement
            | open dialogue/communication | effective communication | clear communication | robust framework+
            | comprehensive strategy/strategies/approach/framework
        """,
        STRONG: """
            take it/this to the next level | taking it/things/your * to the next level | boil~ the ocean
            | align~ with our/your/their/its strategic goals/objectives/vision | shift~ the paradigm
            | culture of innovation/collaboration/excellence/trust/accountability/transparency ?and | peel~ the onion
            | foster~ a culture of | foster~ a sense of | foster~ innovation/collaboration/growth/creativity
            | drive~ innovation | driving innovation | drives innovation | drove innovation | stay~ ahead of the curve
            | stay~ competitive in | at the forefront of | break~ down silos | breaking down silos
            | maximize~ value/impact/efficiency | strike~ the right balance between
            | striking ?the ?right balance between | unlock~ value/growth/opportunities | create~ value for
            | creating value for | thought provoking insights | actionable insights | data driven insights
            | data driven decisions | data driven decision making | hit the ground running | think outside the box
        """,
    },
    "transformation": {
        WEAK: """
            innovative | transition~ to a | emerging technology/technologies | ecosystem of | resilience
            | adaptability | next generation
        """,
        PLAIN: """
            innovation+ | transformative | transformation+ | disrupt~ | disruptive | disruption+ | paradigm+
            | ai driven | ai powered | ai enabled | future proof/proofing/proofed | hyper personalization
            | personalization at scale | digital landscape+ | digital age | digital era | digital first
            | cloud native strategy | sustainability goals | empower~ | empowerment | reimagine~ | rethink~ the way
            | evolving landscape+ | competitive landscape+ | business landscape+ | market landscape+
            | technological advancement+ | emerging trend+ | untapped potential | human centered | human centric
        """,
        STRONG: """
            digital transformation+ | paradigm shift+ | transformative journey+ | transformational change/leadership
            | ever evolving | ever changing landscape/world/market | rapidly evolving
            | rapidly changing world/landscape | fast paced world/environment/digital | future of work | future ready
            | augment~ human capabilities | human ai collaboration | embrace~ change | embrace~ innovation
            | embracing change/innovation/technology | agile and adaptive | agile and responsive | innovate or die
            | pave~ the way for | usher~ in a new era | new era of | age of artificial intelligence
            | harness~ the power/potential of | unlock~ the power of | unlock~ the full potential
            | unlock~ ?your ?their ?its potential | unleash~ the power/potential of
            | unleash~ ?your ?their ?its ?full potential/creativity | full potential of
        """,
    },
    "hype": {
        WEAK: """
            robust | seamless/seamlessly | comprehensive | powerful tool+ | vibrant | exceptional | remarkable
            | invaluable | elevate~ | effortlessly | state of the art | top notch | unique blend of
            | boost~ productivity | enrich~
        """,
        PLAIN: """
            cutting edge | groundbreaking | ground breaking | revolutionary | revolutionize~ | unparalleled
            | unprecedented | world class | best in class | industry leading | next level | one stop shop
            | supercharge~ | turbocharge~ | game changing | unmatched | unrivaled | bespoke solution+
            | innovative solution+ | tailored solution+ | robust solution+ | seamless experience+
            | seamless integration | seamlessly integrate~ | immersive experience+ | unforgettable experience+
            | captivate~ | captivating | meticulously crafted | expertly crafted | meticulous attention
            | stunning visuals | commitment to excellence/quality/innovation | passion for excellence
        """,
        STRONG: """
            game changer+ | look no further | elevate~ your | take your * to the next level | say goodbye to
            | in the palm of your hand | sky is the limit | limitless possibilities | endless possibilities
            | the possibilities are endless | whether you're a seasoned | designed to empower
            | join us on this/a journey | don't miss out on | discover the magic/joy/power of
            | experience the magic/joy/power of
        """,
    },
    "filler": {
        WEAK: """
            crucial | essential for | additionally | furthermore | moreover | ultimately | in conclusion | in summary
            | ensure~ that | key factor+ | key component+ | significant impact | positive impact
        """,
        PLAIN: """
            it is important to | it's important to | it is essential to | it's essential to | it is crucial to
            | it's crucial to | it is worth noting | it's worth noting | worth mentioning that
            | it should be noted that | needless to say | plays/play/played/playing a significant role
            | plays/play/played/playing a key role | that being said | with that being said | when it comes to
            | first and foremost | last but not least | by doing so | by following these steps/tips | in the realm of
            | in the world of | key takeaway+ | delicate balance | myriad of | plethora of | wealth of | multifaceted
            | nuanced | valuable insights | deeper understanding of | better understanding of | well being of
            | informed decisions | informed decision making | some of the key | underscore~ | highlight~ the
            | importance of understanding | cannot be overstated | can't be overstated | it depends on various
        """,
        STRONG: """
            it is important to note | it's important to note | it is important to remember
            | it's important to remember | it is crucial to note | it is also important to note
            | plays/play/played/playing a crucial role | plays/play/played/playing a vital role
            | plays/play/played/playing a pivotal role | in today's world | in today's digital | in today's fast
            | in today's rapidly | in today's ever | in today's competitive | in today's business | in today's society
            | in this digital age | underscore~ the importance | underscore~ the need | highlight~ the importance
            | serve~ as a reminder | serve~ as a testament | by leveraging | strike~ a balance between
            | striking a balance between | a nuanced approach | one size fits all approach/solution
            | there is no one size fits all | dive deeper into | let's dive in/into | let's explore | let's delve
            | without further ado | in the ever | that's where * comes in | here's the thing
        """,
    },
    "flourish": {
        WEAK: """
            realm+ | intricate | profound/profoundly | resonate~ | journey of | beautifully | whisper~ | essence of
        """,
        PLAIN: """
            delve~ | testament to | embark~ on | beacon of | treasure trove | navigate~ the | navigating the
            | intricacies | intricate details | kaleidoscope | crucible | melting pot of | interplay of/between
            | symphony of | dance of | bustling | ever present | indelible mark | unwavering | steadfast | poignant
            | timeless | evocative | tapestry/tapestries | enigmatic | ethereal | interwoven | intertwined
            | labyrinth/labyrinthine | unravel~ | bridge~ the gap | bridging the gap | at the heart of
            | cornerstone of | bedrock of | linchpin of | catalyst for
        """,
        STRONG: """
            rich tapestry | tapestry of | delve~ into the | delve~ deeper into | stands/stand/stood as a testament
            | is a testament to | navigate~ the complexities | navigating the complexities | navigate~ the challenges
            | navigating the challenges | embark~ on a journey | embark~ on this journey | beacon of hope
            | dance of * and | shed~ light on the | a journey of self discovery
            | left/leave/leaves/leaving an indelible | the human experience | the human condition | the human spirit
            | weave~ together | weaving together | a sense of wonder | hung heavy in the air | sent shivers down
        """,
    },
    "assistant": {
        WEAK: """
            certainly | absolutely | i understand that | great question | of course
        """,
        PLAIN: """
            i hope this helps | let me know if you | feel free to | happy to help | happy to assist | i'd be happy to
            | i would be happy to | here is a revised | i apologize for | as requested | please note that
            | if you have any other/further/more questions | consult with a * professional | seek professional advice
        """,
        STRONG: """
            as an ai | as a language model | as an ai language model | i don't have personal | i do not have personal
            | is there anything else | how can i assist | how may i assist | that's a great question
            | what a great question | i hope this email finds you well | don't hesitate to reach out
            | do not hesitate to reach out | feel free to ask | feel free to reach out | certainly here | sure here
            | absolutely here
        """,
    },
}

# Turns of phrase that deny one thing to assert another, and what goes with them: (name, strength, letters that are in
# every match or right before it, pattern), matched in lower-cased text. What makes the search fast is that it looks for
# these letters first, and then for those that the pattern begins with.
_IT_IS_NOT = "|".join(rf"(?<=\b{it}{verb} not )" for it in ("it", "this", "that") for verb in ("'s", " is", " was"))
PATTERNS: Final[tuple[tuple[str, float, str, str], ...]] = (
    ("not only X but also Y", WEAK, "not only", r"not only\b[^.!?\n]{2,100}?\bbut(?: also)?\b"),
    ("not just X but Y", PLAIN, "not ", r"not (?:just|merely|simply)\b[^.!?\n]{2,100}?(?:\bbut\b|[;—–])"),
    (
        "it's not X, it's Y",
        STRONG,
        " not ",
        rf"not (?:{_IT_IS_NOT})(?:just |only |merely |simply |about )?[^.!?\n;]{{2,60}}?"
        r"(?:[,;.—–]| - ) ?(?:it|this|that)(?:'s| is| was)\b(?! not)",
    ),
    (
        "X isn't Y, it's Z",
        STRONG,
        "n't ",
        r"n't (?:(?<=\bisn't )|(?<=\baren't )|(?<=\bwasn't ))(?:just |only |merely |simply |about |a |an |the )"
        r"[^.!?\n;]{2,60}?"
        r"(?:[,;.—–]| - ) ?(?:it|they|this|that)(?:'s|'re| is| are| was)\b(?! not)",
    ),
    ("more than just a X", PLAIN, "more than just", r"more than just (?:a|an|the)\b"),
    ("less about X and more about Y", PLAIN, "less about", r"less about\b[^.!?\n]{2,60}?\bmore about\b"),
    (
        "whether you're X or Y",
        PLAIN,
        "whether you",
        r"whether you(?:'re| are) (?:a|an|new|just|looking)\b[^.!?\n]{2,80}?\bor\b",
    ),
    ("no X, no Y, just Z", STRONG, "just", r"no [\w' -]{2,30}[,.] no [\w' -]{2,30}[,.—–] ?just\b"),
    ("the result? Y", PLAIN, "? ", r"the (?:result|best part|catch|answer|takeaway|solution|outcome)\? "),
    ("from X to Y, everything", PLAIN, "from ", r"from [\w' -]{3,40} to [\w' -]{3,40}, (?:every|our|the possib)"),
)
