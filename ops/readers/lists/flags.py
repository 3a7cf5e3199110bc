"""The options of the command line that name a log's columns, for import and backtest alike."""

from typing import Annotated

import typer

TextColumn = Annotated[str | None, typer.Option("--text", help="Column of the text; found by itself otherwise.")]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", help="Column of the teacher's label, a text or a whole number; a dot goes inside."),
]
QueryColumn = Annotated[
    str | None, typer.Option("--query", help="rank: column of the query; found by itself otherwise.")
]
DocumentsColumn = Annotated[
    str | None, typer.Option("--documents", help="rank: column of the documents, or of the one in each row.")
]
ScoresColumn = Annotated[
    str | None, typer.Option("--scores", help="rank: column of the teacher's scores, or of an endpoint's results.")
]
OrderColumn = Annotated[
    str | None, typer.Option("--order", help="rank: column of the teacher's order, best first; or of a row's rank.")
]
QueryIdColumn = Annotated[
    str | None, typer.Option("--query-id", help="rank: column by which rows of one document each make a list.")
]
MessagesColumn = Annotated[
    str | None, typer.Option("--messages", help="chat: column of the conversation, or of what the user asked.")
]
AnswerColumn = Annotated[
    str | None, typer.Option("--answer", help="chat: column of what the teacher answered, or of its response.")
]
