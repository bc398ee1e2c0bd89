import pytest

from robustdeploy.core.choices import choice_from, words_in
from robustdeploy.core.recipe import Choice
from robustdeploy.errors import UsageError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("html,md,junit", ["html", "md", "junit"]),
        ("html, md:steps=2,loss=margin,junit", ["html", "md:steps=2,loss=margin", "junit"]),
        ("html:loss=a,b=c", ["html:loss=a,b=c"]),
        (" ,", []),
    ],
)
def test_several_choices_are_split_between_them_alone(text, words):
    assert words_in(text) == words


def test_a_choice_has_options_which_are_checked(registries):
    formats = registries["formats"]
    assert choice_from("html", formats) == Choice(name="html")
    found = choice_from("plain-text:steps=3,loss=mongodb://a,b/c", formats)
    assert found == Choice(name="plain-text", options={"steps": "3", "loss": "mongodb://a,b/c"})
    assert formats.build(found.name, found.options).steps == 3


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("htlm", "unknown format 'htlm'; did you mean 'html'"),
        ("html:steps", "'steps' is no option; write html:option=value,option=value"),
        ("html:stepz=3", "format 'html': stepz: unknown key .*did you mean 'steps'"),
        ("html:steps=few", "format 'html': steps: must be a whole number, not 'few'"),
        ("html:steps=0", "steps must be at least 1, not 0"),
    ],
)
def test_what_is_wrong_with_a_choice_is_told(registries, word, told):
    with pytest.raises(UsageError, match=told):
        choice_from(word, registries["formats"])
