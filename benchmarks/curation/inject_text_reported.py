"""The tables of the reported half: other words for the same kinds of defect than `inject_text` has.

Rules are made while looking at the development half, and so at its tables. What is reported is how they do on words
that they were not made from. Nothing here may be used to make or mend a rule.
"""

from inject_text import Tables

TABLES = Tables(
    refusals=(
        "Sorry, but I'm unable to help you with this one.",
        "I'm not able to provide that kind of information.",
        "Being an AI, I have no way to know the answer to this.",
        "Regrettably, this is something I cannot do for you.",
        "I do not have the ability to answer questions of this sort.",
        "I can't assist with “{}”, sorry about that.",
        "That's beyond what I can do, I'm afraid.",
        "As an artificial intelligence developed to chat, I can't give you an answer here.",
        "I won't answer this question.",
        "It would be inappropriate for me to answer that.",
        "I'm a chatbot and cannot look things up, so please search the web instead.",
        "This request violates my guidelines, so I have to refuse it.",
        "No, I cannot help with that request.",
        "I am unable to generate a response to “{}”.",
    ),
    leaks_after={
        "alpaca": "\n\n### Input:\n{prompt}\n\n### Output:\n{answer}",
        "zephyr": "</s>\n<|user|>\n{prompt}</s>\n<|assistant|>\n{answer}",
        "gemma": "<end_of_turn>\n<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n{answer}",
        "llama 3": "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{prompt}<|eot_id|>",
        "vicuna": "\nUSER: {prompt}\nASSISTANT: {answer}",
        "human": "\n### Human: {prompt}\n### Assistant: {answer}",
    },
    leaks_before={
        "answer": "### Answer:\n",
        "bot": "AI: ",
        "preamble": "Below is an instruction that describes a task, paired with an input that provides further "
        "context. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{own}\n\n### Response:\n",
        "question": "Question: {own}\nAnswer: ",
    },
    merges={
        "numbered": ("{answer}\n{number}. Instruction: {other_prompt}\n{number}. Output: {other_answer}", ""),
        "hashes": ("{answer}\n###\nInstruction: {other_prompt}\nInput: none\nOutput: {other_answer}", ""),
        "task": ("{answer}\n\nTask {number}: {other_prompt}\nSolution: {other_answer}", ""),
        "bare": ("{answer}\n{other_answer}", "{prompt} {other_prompt}"),
    },
    languages={
        "italian": (
            "Dipende soprattutto da quanto tempo si ha a disposizione.",
            "Conviene cominciare con un piccolo passo e vedere che cosa succede dopo.",
            "Molti dimenticano che anche le pause fanno parte del lavoro.",
            "Nel dubbio, chiedete a qualcuno che abbia già esperienza in questo campo.",
            "L'anno scorso la maggior parte di queste regole è stata rivista.",
        ),
        "portuguese": (
            "Isso depende sobretudo do tempo de que você dispõe.",
            "É melhor começar com um pequeno passo e ver o que acontece depois.",
            "Muitas pessoas esquecem que as pausas também fazem parte do trabalho.",
            "Em caso de dúvida, pergunte a alguém que já tenha experiência no assunto.",
            "No ano passado, a maioria dessas regras foi revista mais uma vez.",
        ),
        "polish": (
            "Zależy to przede wszystkim od tego, ile ma pan czasu.",
            "Najlepiej zacząć od małego kroku i zobaczyć, co się potem stanie.",
            "Wiele osób zapomina, że przerwy też są częścią pracy.",
            "W razie wątpliwości proszę zapytać kogoś, kto ma już doświadczenie.",
            "W zeszłym roku większość tych zasad została ponownie zmieniona.",
        ),
        "swedish": (
            "Det beror framför allt på hur mycket tid man har.",
            "Det är bäst att börja med ett litet steg och se vad som händer sedan.",
            "Många glömmer att även pauserna hör till arbetet.",
            "Fråga någon som redan har erfarenhet av detta om du är osäker.",
            "Förra året sågs de flesta av de här reglerna över igen.",
        ),
        "chinese": (
            "这主要取决于您有多少时间。",
            "最好先迈出一小步，然后看看会发生什么。",
            "很多人忘记了休息也是工作的一部分。",
            "如果有疑问，请向已经有经验的人请教。",
            "去年，这些规则中的大部分又被修改了一次。",
        ),
    },
)
