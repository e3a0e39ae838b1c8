"""Chat templates in the shapes that public ones have, written for the tests."""

# ruff: noqa: E501  a template's own lines stay whole

from __future__ import annotations

_LOOP = "{% for m in messages %}"
_END = "{% endfor %}"
_PROMPT = "{% if add_generation_prompt %}"


def _turns(open_: str, close: str, prompt: str, before: str = "") -> str:
    """One turn after the other, all roles alike."""
    return f"{before}{_LOOP}{open_}{{{{ m.content }}}}{close}{_END}{_PROMPT}{prompt}{{% endif %}}"


def _alternating(user: str, answer: str, system: str = "", refuse: str = "") -> str:
    """User and assistant in turn, anything else refused."""
    first = (
        f"{{% if messages[0].role == 'system' %}}{refuse or system}"
        "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    )
    return (
        "{{ bos_token }}" + first + "{% for m in turns %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
        f"{{% if m.role == 'user' %}}{user}{{% else %}}{answer}{{% endif %}}{{% endfor %}}"
    )


_IM = "<|im_start|>{{ m.role }}\n"
_SYSTEM = "{{ messages[0].content }}"
_REFUSE = "{{ raise_exception('System role not supported') }}"
_HERMES_TOOLS = (
    "{% if tools %}<|im_start|>system\nYou may call:\n<tools>{% for t in tools %}\n"
    "{{ t | tojson }}{% endfor %}\n</tools><|im_end|>\n{% endif %}"
)
_CALLS = (
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments if c.function.arguments is string "
    "else c.function.arguments | tojson }}}\n</tool_call>{% endfor %}{% endif %}"
)

SHAPES: dict[str, str] = {
    # --- Turns between markers -------------------------------------------------------------------
    "chatml": _turns(_IM, "<|im_end|>\n", "<|im_start|>assistant\n"),
    "chatml_concat": (
        _LOOP
        + "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
        + _END
        + _PROMPT
        + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "chatml_default_system": _turns(
        _IM,
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}",
    ),
    "zephyr": (
        _LOOP + "\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
        "{% elif m['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n"
        "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n" + _END
    ),
    "phi3": (
        _LOOP
        + "{% if m.role == 'system' and m.content %}{{'<|system|>\n' + m.content + '<|end|>\n'}}"
        "{% elif m.role == 'user' %}{{'<|user|>\n' + m.content + '<|end|>\n'}}"
        "{% elif m.role == 'assistant' %}{{'<|assistant|>\n' + m.content + '<|end|>\n'}}{% endif %}"
        + _END
        + _PROMPT
        + "{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    "llama3": (
        "{% set loop_messages = messages %}{% for m in loop_messages %}"
        "{% set content = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        "+ m['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
        "{{ content }}{% endfor %}"
        + _PROMPT
        + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "llama31_date": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n"
        "    {%- if strftime_now is defined %}\n"
        "        {%- set date_string = strftime_now('%d %b %Y') %}\n"
        "    {%- else %}\n        {%- set date_string = '26 Jul 2024' %}\n    {%- endif %}\n"
        "{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system_message = messages[0]['content'] | trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n"
        "{%- endif %}\n{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}\n"
        "{{- 'Today Date: ' + date_string + '\\n\\n' }}\n{{- system_message }}\n"
        "{{- '<|eot_id|>' }}\n{%- for message in messages %}\n"
        "    {%- if not (message.role == 'ipython' or message.role == 'tool' "
        "or 'tool_calls' in message) %}\n"
        "        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        " + message['content'] | trim + '<|eot_id|>' }}\n"
        "    {%- elif 'tool_calls' in message %}\n"
        "        {%- if not message.tool_calls | length == 1 %}\n"
        "            {{- raise_exception('This model only supports single tool-calls at once!') }}\n"
        "        {%- endif %}\n        {%- set tool_call = message.tool_calls[0].function %}\n"
        "        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}\n"
        '        {{- \'{"name": "\' + tool_call.name + \'", "parameters": \' }}\n'
        "        {{- tool_call.arguments | tojson }}\n        {{- '}<|eot_id|>' }}\n"
        "    {%- elif message.role == 'tool' %}\n"
        "        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}\n"
        "        {{- message.content | tojson }}\n        {{- '<|eot_id|>' }}\n    {%- endif %}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
    ),
    "llama4_skips_empty_calls": (
        "{{ bos_token }}" + _LOOP + "{% if 'tool_calls' in m and m.tool_calls is not none %}"
        "{% for c in m.tool_calls %}<|header|>call{{ c.function.name }}<|eot_id|>{% endfor %}"
        "{% else %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% endif %}"
        + _END
        + _PROMPT
        + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "openchat": _turns(
        "{{ 'GPT4 Correct ' + m['role'].title() + ': ' }}",
        "<|end_of_turn|>",
        "GPT4 Correct Assistant:",
        "{{ bos_token }}",
    ),
    "starling": (
        "{{ bos_token }}"
        + _LOOP
        + "{{ 'GPT4 Correct ' + m['role'].title() + ': ' + m['content'] }}"
        "{% if not loop.last or m.role == 'assistant' %}<|end_of_turn|>{% endif %}"
        + _END
        + _PROMPT
        + "GPT4 Correct Assistant:{% endif %}"
    ),
    "falcon_plain": (
        _LOOP
        + "{% if not loop.first %}\n\n{% endif %}{{ m.role | capitalize }}: {{ m.content }}"
        + _END
        + _PROMPT
        + "\n\nAssistant:{% endif %}"
    ),
    "falcon3": _turns(
        "<|{{ m.role }}|>\n", "{{ '\n' if not loop.last else eos_token }}", "<|assistant|>\n"
    ),
    "granite2": (
        _LOOP + "{% if m.role == 'system' %}System:\n{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}Question:\n{{ m.content }}\n\n"
        "{% elif m.role == 'assistant' %}Answer:\n{{ m.content }}\n\n{% endif %}"
        "{% if loop.last and add_generation_prompt %}Answer:\n{% endif %}" + _END
    ),
    "granite3": _turns(
        "<|start_of_role|>{{ m.role }}<|end_of_role|>",
        "<|end_of_text|>\n",
        "<|start_of_role|>assistant<|end_of_role|>",
        "{% if tools %}<|start_of_role|>tools<|end_of_role|>{{ tools | tojson(indent=4) }}"
        "<|end_of_text|>\n{% endif %}",
    ),
    "olmo": (
        "{{ eos_token }}" + _LOOP + "{% if m.role == 'system' %}<|system|>\n{{ m.content }}\n"
        "{% elif m.role == 'user' %}<|user|>\n{{ m.content }}\n"
        "{% else %}{% if not loop.last %}<|assistant|>\n{{ m.content }}{{ eos_token }}\n"
        "{% else %}<|assistant|>\n{{ m.content }}{{ eos_token }}{% endif %}{% endif %}"
        "{% if loop.last and add_generation_prompt %}<|assistant|>\n{% endif %}" + _END
    ),
    "tulu": _turns(
        "<|{{ m.role }}|>\n", "{{ eos_token if m.role == 'assistant' }}\n", "<|assistant|>\n"
    ),
    "internlm": _turns(_IM, "<|im_end|>\n", "<|im_start|>assistant\n", "{{ bos_token }}"),
    "yi": _turns(
        _IM,
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{% if not add_generation_prompt is defined %}"
        "{% set add_generation_prompt = false %}{% endif %}",
    ),
    "stablelm": _turns("<|{{ m.role }}|>\n", "<|endoftext|>\n", "<|assistant|>\n"),
    "smollm": (
        _LOOP + "{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
        + _END
        + _PROMPT
        + "{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "glm4": _turns("<|{{ m.role }}|>\n", "", "<|assistant|>", "[gMASK]<sop>"),
    "exaone": (
        _LOOP + "{% if loop.first and m.role != 'system' %}[|system|][|endofturn|]\n{% endif %}"
        "{{ '[|' + m.role + '|]' + m.content }}{% if m.role == 'user' %}\n"
        "{% else %}[|endofturn|]\n{% endif %}" + _END + _PROMPT + "[|assistant|]{% endif %}"
    ),
    "lfm2": (
        "{{- bos_token -}}{%- set ns = namespace(system='') -%}"
        "{%- if messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}"
        "{%- set messages = messages[1:] -%}{%- endif -%}{%- if tools -%}"
        "{%- set ns.system = ns.system + ('\n' if ns.system else '') + 'List of tools: [' -%}"
        "{%- for tool in tools -%}{%- set ns.system = ns.system + (tool | tojson) -%}"
        "{%- if not loop.last -%}{%- set ns.system = ns.system + ', ' -%}{%- endif -%}"
        "{%- endfor -%}{%- set ns.system = ns.system + ']' -%}{%- endif -%}"
        "{%- if ns.system -%}{{- '<|im_start|>system\n' + ns.system + '<|im_end|>\n' -}}"
        "{%- endif -%}{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}"
        "{%- set content = m.content -%}{%- if content is not string -%}"
        "{%- set content = content | tojson -%}{%- endif -%}{{- content + '<|im_end|>\n' -}}"
        "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}"
        "{%- endif -%}"
    ),
    # --- Instructions ----------------------------------------------------------------------------
    "llama2": _alternating(
        "{{ bos_token if not loop.first }}[INST] {% if loop.first and system is defined %}{% endif %}"
        "{{ m.content | trim }} [/INST]",
        " {{ m.content | trim }} {{ eos_token }}",
        "<<SYS>>\n" + _SYSTEM + "\n<</SYS>>\n\n",
    ),
    "llama2_system_inside": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}"
        "{% set loop_messages = messages %}{% set system_message = false %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}"
    ),
    "mistral_v1": _alternating(
        "[INST] {{ m.content }} [/INST]", "{{ m.content }}{{ eos_token }}", refuse=_REFUSE
    ),
    # the system prompt goes into the last message if that is the user's: prompt is no prefix
    "mistral_v3": (
        "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
        "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
        "{%- set users = turns | selectattr('role', 'equalto', 'user') | list %}{{- bos_token }}"
        "{%- for m in turns %}{%- if m.role == 'user' %}"
        "{%- if tools is not none and m == users[-1] %}"
        "{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}"
        "{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
        "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
        "{%- elif m.tool_calls is defined and m.tool_calls is not none %}"
        "{{- '[TOOL_CALLS] [' }}{%- for c in m.tool_calls %}{{- c.function | tojson }}"
        "{%- if not c.id is defined or c.id | length != 9 %}"
        "{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}"
        "{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}{%- endfor %}"
        "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}"
        "{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content | string + '[/TOOL_RESULTS]' }}"
        "{%- else %}{{- raise_exception('Only user and assistant roles are supported') }}"
        "{%- endif %}{%- endfor %}"
    ),
    "mistral_small": (
        "{{ bos_token }}"
        + _LOOP
        + "{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
        "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% else %}{{ raise_exception('Only user, system and assistant roles are supported!') }}{% endif %}"
        + _END
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}" + _REFUSE + "{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
        "{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
        "{% endfor %}" + _PROMPT + "{{'<start_of_turn>model\n'}}{% endif %}"
    ),
    "gemma3": (
        "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n"
        "    {%- if messages[0]['content'] is string -%}\n"
        "        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- else -%}\n"
        "        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n"
        "    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n"
        "    {%- set first_user_prefix = '' -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n"
        "{%- for message in loop_messages -%}\n"
        "    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n"
        "        {{ raise_exception('Conversation roles must alternate') }}\n    {%- endif -%}\n"
        "    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n"
        "    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else '') }}\n"
        "    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n"
        "    {%- elif message['content'] is iterable -%}\n"
        "        {%- for item in message['content'] -%}\n"
        "            {%- if item['type'] == 'image' -%}\n                {{ '<start_of_image>' }}\n"
        "            {%- elif item['type'] == 'text' -%}\n                {{ item['text'] | trim }}\n"
        "            {%- endif -%}\n        {%- endfor -%}\n    {%- endif -%}\n"
        "    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n"
    ),
    "alpaca": (
        _LOOP + "{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
        "{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}\n\n{% endif %}"
        + _END
        + _PROMPT
        + "### Response:\n{% endif %}"
    ),
    "vicuna": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}A chat.{% endif %}"
        + _LOOP
        + "{% if m.role == 'user' %} USER: {{ m.content | trim }}"
        "{% elif m.role == 'assistant' %} ASSISTANT: {{ m.content | trim }}{{ eos_token }}{% endif %}"
        + _END
        + _PROMPT
        + " ASSISTANT:{% endif %}"
    ),
    "deepseek_coder": (
        "{{ bos_token }}{%- set ns = namespace(found=false) -%}{%- for m in messages -%}"
        "{%- if m['role'] == 'system' -%}{%- set ns.found = true -%}{%- endif -%}{%- endfor -%}"
        "{%- if not ns.found -%}{{'You are an AI programming assistant\n'}}{%- endif %}"
        "{%- for m in messages %}{%- if m['role'] == 'system' %}{{ m['content'] }}"
        "{%- else %}{%- if m['role'] == 'user' %}{{'### Instruction:\n' + m['content'] + '\n'}}"
        "{%- else %}{{'### Response:\n' + m['content'] + '\n<|EOT|>\n'}}{%- endif %}{%- endif %}"
        "{%- endfor %}{% if add_generation_prompt %}{{'### Response:'}}{% endif %}"
    ),
    "deepseek_v2": (
        "{{ bos_token }}"
        + _LOOP
        + "{% if m['role'] == 'user' %}{{ 'User: ' + m['content'] + '\n\n' }}"
        "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' + m['content'] + eos_token }}"
        "{% elif m['role'] == 'system' %}{{ m['content'] + '\n\n' }}{% endif %}"
        + _END
        + _PROMPT
        + "{{ 'Assistant:' }}{% endif %}"
    ),
    # writes <think> into the prompt and takes the thoughts out of answers: prompt is no prefix
    "deepseek_r1": (
        "{% set ns = namespace(system='') %}" + _LOOP + "{% if m.role == 'system' %}"
        "{% set ns.system = ns.system + m.content %}{% endif %}"
        + _END
        + "{{ bos_token }}{{ ns.system }}"
        + _LOOP
        + "{% if m.role == 'user' %}<|User|>{{ m.content }}"
        "{% elif m.role == 'assistant' and m.content %}{% set content = m.content %}"
        "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "<|Assistant|>{{ content }}{{ eos_token }}{% endif %}"
        + _END
        + _PROMPT
        + "<|Assistant|><think>\n{% endif %}"
    ),
    "minicpm": (
        _LOOP + "{% if m.role == 'user' %}<用户>{{ m.content.strip() }}<AI>"
        "{% else %}{{ m.content.strip() }}{% endif %}" + _END
    ),
    "solar": _turns("### {{ m.role.title() }}:\n", "\n\n", "### Assistant:\n"),
    "neural_chat": (
        _LOOP
        + "{{ {'system': '### System:\n', 'user': '### User:\n', 'assistant': '### Assistant:\n'}"
        "[m.role] + m.content + '\n' }}" + _END + _PROMPT + "### Assistant:\n{% endif %}"
    ),
    "command_r": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% if system_message != false %}"
        "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}"
        "{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% set content = message['content'] %}{% if message['role'] == 'user' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'"
        " + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
        + _PROMPT
        + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
    ),
    # --- Tools and thoughts ----------------------------------------------------------------------
    "hermes_tools": (
        _HERMES_TOOLS
        + _LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
        + _CALLS
        + "<|im_end|>\n"
        + _END
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}"
    ),
    "qwen25": (
        "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n"
        "    {%- if messages[0]['role'] == 'system' %}\n        {{- messages[0]['content'] }}\n"
        "    {%- else %}\n        {{- 'You are Qwen.' }}\n    {%- endif %}\n"
        '    {{- "\\n\\n# Tools\\n<tools>" }}\n    {%- for tool in tools %}\n        {{- "\\n" }}\n'
        '        {{- tool | tojson }}\n    {%- endfor %}\n    {{- "\\n</tools><|im_end|>\\n" }}\n'
        "{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
        "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
        "    {%- else %}\n        {{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}\n"
        "    {%- endif %}\n{%- endif %}\n{%- for message in messages %}\n"
        '    {%- if (message.role == "user") or (message.role == "system" and not loop.first) '
        'or (message.role == "assistant" and not message.tool_calls) %}\n'
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "    {%- elif message.role == \"assistant\" %}\n        {{- '<|im_start|>' + message.role }}\n"
        "        {%- if message.content %}\n            {{- '\\n' + message.content }}\n        {%- endif %}\n"
        "        {%- for tool_call in message.tool_calls %}\n"
        "            {%- if tool_call.function is defined %}\n"
        "                {%- set tool_call = tool_call.function %}\n            {%- endif %}\n"
        '            {{- \'\\n<tool_call>\\n{"name": "\' }}\n            {{- tool_call.name }}\n'
        '            {{- \'", "arguments": \' }}\n            {{- tool_call.arguments | tojson }}\n'
        "            {{- '}\\n</tool_call>' }}\n        {%- endfor %}\n        {{- '<|im_end|>\\n' }}\n"
        '    {%- elif message.role == "tool" %}\n'
        '        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}\n'
        "            {{- '<|im_start|>user' }}\n        {%- endif %}\n"
        "        {{- '\\n<tool_response>\\n' }}\n        {{- message.content }}\n"
        "        {{- '\\n</tool_response>' }}\n"
        '        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}\n'
        "            {{- '<|im_end|>\\n' }}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"
    ),
    "qwen3": (
        "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- for tool in tools %}\n"
        "        {{- tool | tojson }}\n    {%- endfor %}\n    {{- '<|im_end|>\\n' }}\n"
        "{%- elif messages[0].role == 'system' %}\n"
        "    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n{%- endif %}\n"
        "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
        "{%- for message in messages[::-1] %}\n"
        "    {%- set index = (messages|length - 1) - loop.index0 %}\n"
        '    {%- if ns.multi_step_tool and message.role == "user" and message.content is string '
        "and not(message.content.startswith('<tool_response>')) %}\n"
        "        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n"
        "    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n"
        "    {%- set content = message.content if message.content is string else '' %}\n"
        '    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}\n'
        "        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n"
        "    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n"
        "        {%- if message.reasoning_content is string %}\n"
        "            {%- set reasoning_content = message.reasoning_content %}\n        {%- else %}\n"
        "            {%- if '</think>' in content %}\n"
        "                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n')"
        ".split('<think>')[-1].lstrip('\\n') %}\n"
        "                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
        "            {%- endif %}\n        {%- endif %}\n"
        "        {%- if loop.index0 > ns.last_query_index %}\n"
        "            {%- if loop.last or (not loop.last and reasoning_content) %}\n"
        "                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + "
        "reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n"
        "            {%- else %}\n                {{- '<|im_start|>' + message.role + '\\n' + content }}\n"
        "            {%- endif %}\n        {%- else %}\n"
        "            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n"
        "        {%- for tool_call in message.tool_calls or [] %}\n"
        "            {{- '\\n<tool_call>\\n' + tool_call.function.name + '\\n</tool_call>' }}\n"
        "        {%- endfor %}\n        {{- '<|im_end|>\\n' }}\n    {%- elif message.role == \"tool\" %}\n"
        "        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}\n"
        "    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
        "        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}\n"
    ),
    "reasoning_aliases": (
        _LOOP + "{{ m.role }}:{{ m.thinking }}|{{ m.reasoning_content }}|{{ m.reasoning }}"
        "|{{ m.content }}|{{ m.name is defined }}\n" + _END
    ),
    "gpt_oss": (
        "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
        "{% macro call(c) %}<|call|>{{ c.name }} {{ c.arguments | tojson }}{% endmacro %}"
        + _LOOP
        + "{% if m.role == 'assistant' %}{% if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>"
        "{{ m.thinking }}<|end|>{% endif %}{% if m.tool_calls %}{{ call(m.tool_calls[0].function) }}"
        "{% else %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}"
        "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}"
        + _END
        + _PROMPT
        + "<|start|>assistant{% endif %}"
    ),
    "function_calling_json": (
        "{% if tools is not none %}TOOLS: {{ tools | tojson }}\n{% else %}NO TOOLS\n{% endif %}"
        + _LOOP
        + "{{ m | tojson }}\n"
        + _END
        + _PROMPT
        + "assistant: {% endif %}"
    ),
    "tool_macro": (
        "{% macro render(t, depth=0) %}{{ '  ' * depth }}{{ t.function.name }}({% for k, v in "
        "(t.function.parameters.properties or {}).items() %}{{ k }}: {{ v.type | default('any') }}"
        "{{ ', ' if not loop.last }}{% endfor %}){% endmacro %}"
        "{% for t in tools or [] %}{{ render(t, 1) }}\n{% endfor %}"
        + _LOOP
        + "<|im_start|>{{ m.role }}\n{{ m.content if m.content is not none else '' }}<|im_end|>\n"
        + _END
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}"
    ),
    # --- Constructs ------------------------------------------------------------------------------
    "generation": (
        _LOOP
        + "{% if m.role == 'assistant' %}<|im_start|>assistant\n{% generation %}{{ m.content }}"
        "<|im_end|>{% endgeneration %}\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}" + _END + _PROMPT + "<|im_start|>assistant\n{% endif %}"
    ),
    "generation_scope": (
        "{% set ns = namespace(n=0) %}" + _LOOP + "{%- generation -%}{% set x = m.role %}"
        "{% set ns.n = ns.n + 1 %}{{ x }}{{ ns.n }}{{ loop.index }}{{ m.content }}"
        "{%- endgeneration -%}{{ x }}\n" + _END
    ),
    "breaks": (
        _LOOP + "{% if loop.index > 6 %}{% break %}{% endif %}{% if not m.content %}{% continue %}"
        "{% endif %}{{ m.role }}: {{ m.content }}\n" + _END + _PROMPT + "assistant: {% endif %}"
    ),
    "trim_blocks": (
        "{% for m in messages %}\n    {% if m.role == 'user' %}\nU {{ m.content }}\n"
        "    {% elif m.role == 'assistant' %}\nA {{ m.content | trim }}{{ eos_token }}\n"
        "    {%+ if loop.last %}  last {% endif +%}\n    {% else %}\nO {{ m.content | trim }}\n"
        "    {% endif %}\n{% endfor %}\n"
    ),
    "keep_newline": _turns("{{ m.role }}\n", "\n\n", "assistant\n\n", "\n\n{# a note #}\n"),
    "dicts": (
        "{% set names = dict(user='U', assistant='A') %}{% set seen = dict.fromkeys(['user'], 0) %}"
        + _LOOP
        + "{{ names.get(m.role, m.role) }}{{ seen | length }}: {{ m.content | default('', true) }}"
        "\n" + _END + _PROMPT + "A: {% endif %}"
    ),
    "all_variables": (
        "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ image_token }}{{ sep_token }}"
        "{{ enable_thinking }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
        "{{ cls_token is defined }}" + _LOOP + "{{ m.content }}" + _END
    ),
    "escapes": _turns(
        "<b>&amp;{{ m.role | upper }}\t", "{{ '\"' | tojson }}</b>", "<b>&amp;ASSISTANT\t"
    ),
    "filters": (
        _LOOP + "{{ m.role | first | upper }}{{ (m.content or '') | replace('\n', ' ') | length }}"
        "{{ (m.content or '').split() | join('_') }}{{ m.keys() | list | sort | join(',') }}\n"
        + _END
    ),
    # --- Answers that are not written ------------------------------------------------------------
    "skips_empty": (
        _LOOP
        + "{% if m.content %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}"
        + _END
        + _PROMPT
        + "<|im_start|>assistant\n{% endif %}"
    ),
    "skips_empty_plain": (
        _LOOP
        + "{% if m.content %}{{ m.role }}: {{ m.content }}\n\n{% endif %}"
        + _END
        + _PROMPT
        + "assistant: {% endif %}"
    ),
    "drops_last": "{% for m in messages[:-1] %}{{ m.role }} {{ m.content }}\n{% endfor %}",
    "writes_nothing": "{# nothing at all #}",
    "prompt_of_its_own": _turns("{{ m.role }}> ", "\n", "assistant (think first)> "),
    "counts_messages": _turns(
        "{{ m.role }}: ", "\n", "assistant: ", "{{ messages | length }} messages\n"
    ),
}

NAMED: dict[str, dict[str, str]] = {
    "default_and_tool_use": {"default": SHAPES["mistral_v1"], "tool_use": SHAPES["hermes_tools"]},
    "default_and_rag": {"default": SHAPES["chatml"], "rag": SHAPES["command_r"]},
    "tool_use_alone": {"tool_use": SHAPES["hermes_tools"]},
}
